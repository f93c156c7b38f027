"""The plan: which images are restored, and where the results go."""

import pytest
from PIL import Image

from vitdeblur_jax.cli.main import main
from vitdeblur_jax.inference import restore_files
from vitdeblur_jax.inference.restore_plan import Options, plan, tell_left_out
from vitdeblur_jax.utils.errors import UserError


@pytest.fixture
def album(tmp_path, monkeypatch):
    """A folder with images, and two subfolders with equal file names."""
    monkeypatch.chdir(tmp_path)
    for name in ("b10.png", "b9.jpe", "june/a.png", "may/a.png", "__MACOSX/._a.png"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path, "PNG")
    (tmp_path / "album/c.psd").write_bytes(b"")
    return tmp_path / "album"


def planned(sources, output, **options):
    tasks = plan(sources, output, Options(**options))
    return [(str(task.source), str(task.destination)) for task in tasks]


def test_a_folder_is_restored_in_natural_order_without_subfolders(album):
    assert planned(["album"], "out") == [
        ("album/b9.jpe", "out/b9.jpe"),
        ("album/b10.png", "out/b10.png"),
    ]


def test_recursive_results_go_to_subfolders_of_the_same_names(album):
    assert planned(["album"], "out", recursive=True)[2:] == [
        ("album/june/a.png", "out/june/a.png"),
        ("album/may/a.png", "out/may/a.png"),
    ]
    assert planned(["album/may"], "album", recursive=True) == [("album/may/a.png", "album/a.png")]


def test_results_of_an_earlier_run_are_not_restored_again(album):
    found = planned(["album"], "album/may", recursive=True)
    assert found[2:] == [("album/june/a.png", "album/may/june/a.png")]
    for name in ("b10.png", "b9.jpe", "june/a.png"):
        (album / name).unlink()
    with pytest.raises(UserError, match=r"no images in album except in album/may"):
        planned(["album"], "album/may", recursive=True)


def test_skipped_files_of_a_folder_are_listed(album, capsys):
    tell_left_out(["album", "album/may", "album/b10.png", "-"], recursive=False)
    assert capsys.readouterr().err == (
        "album: left out: 1 file in unsupported formats (.psd), 2 folders; "
        "--recursive includes the folders\n"
    )
    tell_left_out(["album"], recursive=True)
    assert capsys.readouterr().err == ("album: left out: 1 file in unsupported formats (.psd)\n")


@pytest.mark.parametrize("flag", [[], ["--recursive"]])
def test_the_command_has_the_option(album, monkeypatch, flag):
    seen = []
    monkeypatch.setattr(restore_files, "restore_files", lambda *given: seen.append(given[3]) or 0)
    assert main(["album", "-o", "out", *flag]) == 0
    assert seen[0].recursive is bool(flag)


def test_images_with_the_same_name_in_two_formats_have_two_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("a.avif", "a.dng", "a.gif", "a.JFIF", "a.jpe", "a.jpg", "a.png", "a.ppm")
    for name in names:
        (tmp_path / name).touch()
    results = ["a.avif", "a.dng.png", "a.gif.png", "a.JFIF", "a.jpe", "a.jpg", "a.png"]
    results += ["a.ppm.png"]
    assert [result for _, result in planned(list(names), "out")] == [f"out/{r}" for r in results]
    beside = [result.replace("a.", "a_restored.", 1) for result in results]
    assert [result for _, result in planned(list(names), None)] == beside
    assert planned(["a.gif"], "out/") == [("a.gif", "out/a.gif.png")]  # whatever lies beside it


def test_a_missing_package_is_named_before_any_work(album, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^out\.heic: HEIC files need pillow-heif: pip install"):
        planned(["album/b10.png"], "out.heic")
