"""Exported models, run in a process that cannot import this package."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import jax.export
import numpy as np
import pytest
import skimage.data
from packaging.requirements import Requirement

from vitdeblur_jax import deblur, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import config_to_json, digest
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.inference.export import checkpoint_name, exported_functions

RESTORE = """
import sys
sys.modules["vitdeblur_jax"] = sys.modules["flax"] = None  # to import them is an error
folder, given, result, *batch_sizes = sys.argv[1:]
import importlib.util, os
import numpy as np
is_installed = importlib.util.find_spec("flatbuffers") is not None
sys.path.insert(0, os.path.dirname(folder))
restore = importlib.import_module(os.path.basename(folder)).load()
import flatbuffers
assert flatbuffers.__file__.startswith(folder) != is_installed
images, restored = dict(np.load(given)), {}
for options in ({}, *({"batch_size": int(size)} for size in batch_sizes)):
    for name, image in images.items():
        restored[" ".join([name, *map(str, options.values())])] = restore(image, **options)
np.savez(result, **restored)
try:
    restore(np.zeros((5, 5, 4), np.uint8))
except ValueError as error:
    print(error)
"""


def restored_elsewhere(folder, images, scratch, *batch_sizes, python=sys.executable):
    """Restores images with the loader in `folder`, which also refuses one with four channels.

    The result has each image without a batch size, under its name, and with each batch size, under
    "NAME SIZE".
    """
    np.savez(scratch / "given.npz", **images)
    files = [str(scratch / name) for name in ("given.npz", "result.npz")]
    command = [python, "-c", RESTORE, str(folder), *files, *map(str, batch_sizes)]
    ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("the network takes height x width x 3 (1 view); the image is")
    return dict(np.load(scratch / "result.npz"))


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_pretrained(small, path)
    return path


def test_a_stride_that_repeats_the_token_grid_is_noted(small, export, monkeypatch):
    monkeypatch.setattr("vitdeblur_jax.inference.export.exported_functions", lambda *_: {})
    poor = dataclasses.replace(
        small, model=small.model.clone(tiling=small.model.tiling._replace(stride=28))
    )
    save_pretrained(poor, "poor.safetensors")
    status, said = export("poor.safetensors", "out")
    assert status == 0
    assert said.startswith("note: stride 28 is a multiple of 4")


@pytest.fixture(scope="module")
def exported(checkpoint) -> Path:
    folder = checkpoint.parent / "exported"
    assert main(["export", str(checkpoint), str(folder)]) == 0
    return folder


@pytest.fixture
def export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        return main(["export", *map(str, arguments)]), capsys.readouterr().err

    return run


def test_two_exported_models_in_one_process(exported, tmp_path, monkeypatch):
    """The second model has the variables of the first, halved."""
    for name in ("one", "two"):
        shutil.copytree(exported, tmp_path / name)
    with np.load(exported / "variables.npz") as file:
        halved = {name: value / 2 for name, value in file.items()}
    np.savez(tmp_path / "two/variables.npz", **halved)
    monkeypatch.syspath_prepend(tmp_path)
    one, two = (importlib.import_module(name) for name in ("one", "two"))
    image = skimage.data.astronaut()[:44, :50]
    restored = one.load()(image)
    assert not np.array_equal(restored, two.load()(image))
    np.testing.assert_array_equal(one.load()(jax.numpy.asarray(image)), restored)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    added = {name for name, file in files.items() if file and file.startswith(str(tmp_path))}
    parts = ("", ".pixels", ".strips", ".tiles", ".windows")
    assert added == {f"{name}{part}" for name in ("one", "two") for part in parts}
    for name in added:
        del sys.modules[name]


def test_images_are_restored_without_this_package(checkpoint, exported, tmp_path):
    photo = skimage.data.astronaut()
    images = {
        "image": photo[100:181, 200:271],
        "small": photo[:7, :60],
        "deep": photo[:50, :44].astype(np.uint16) * 257,
        "floats": photo[:44, :50].astype(np.float32) / 255,
    }
    restored = restored_elsewhere(exported, images, tmp_path, 4)
    pretrained = load_pretrained(checkpoint)
    for name, image in images.items():
        expected = deblur(image, pretrained)
        # Integers may be rounded the other way.
        atol = {"u1": 1, "u2": 2, "f4": 1e-5}[image.dtype.str[1:]]
        for found in (restored[name], restored[f"{name} 4"]):
            assert (found.dtype, found.shape) == (image.dtype, expected.shape)
            np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=atol)


def test_a_step_is_named_with_its_run():
    assert checkpoint_name("/home/me/RUN/checkpoints/300") == "RUN/checkpoints/300"
    assert checkpoint_name("/home/me/small.safetensors") == "small.safetensors"
    address = f"hf://me/net@{40 * 'a'}/small.safetensors"
    assert checkpoint_name(address) == address


def test_metadata(checkpoint, exported):
    metadata = json.loads((exported / "metadata.json").read_text())
    pretrained = load_pretrained(checkpoint)
    assert metadata["config"] == json.loads(config_to_json(pretrained.model))
    with np.load(exported / "variables.npz") as file:
        assert metadata["digest"] == digest(dict(file))
    assert metadata["digest"] == digest(pretrained.variables)
    assert metadata["source"] == "small.safetensors"
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
    assert metadata["batch_size"] is None
    assert "Apache License" in (exported / "LICENSE").read_text()


def test_one_file_supports_all_platforms_and_any_batch_size(exported):
    for name in ("window_features", "head_tile"):
        function = jax.export.deserialize(bytearray((exported / f"{name}.exported").read_bytes()))
        assert function.platforms == ("cpu", "cuda", "tpu")
        assert "_platform_index" in function.mlir_module()
        batch = function.in_avals[-1].shape[0]
        assert str(batch) == ("batch" if name == "window_features" else "36")


@pytest.mark.parametrize(
    ("platforms", "is_by_fourier"), [(("cpu",), True), (("cuda", "tpu"), False)]
)
def test_each_platform_is_lowered_separately(small, platforms, is_by_fourier):
    functions = exported_functions(small, platforms, None)
    assert ("stablehlo.fft" in functions["head_tile"].mlir_module()) == is_by_fourier


def test_a_fixed_batch_size(checkpoint, export, tmp_path, monkeypatch):
    status, said = export(checkpoint, "fixed", "--platforms", "cpu", "--batch-size", "3")
    assert (status, said) == (0, "written: fixed\n")
    monkeypatch.syspath_prepend(tmp_path)
    image = skimage.data.astronaut()[:60, :50]
    restored = importlib.import_module("fixed").load()(image)
    for module in [module for module in sys.modules if module.split(".")[0] == "fixed"]:
        del sys.modules[module]
    expected = deblur(image, load_pretrained(checkpoint)).astype(int)
    np.testing.assert_allclose(restored.astype(int), expected, atol=1)
    serialized = bytearray(Path("fixed/window_features.exported").read_bytes())
    function = jax.export.deserialize(serialized)
    assert function.platforms == ("cpu",)
    assert function.in_avals[-1].shape == (3, 42, 42, 3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["{}", "out", "--platforms", "cpu,cuad"],
            "unknown platform 'cuad' (did you mean 'cuda'?)",
        ),
        (["{}", "out", "--platforms", ""], "unknown platform ''"),
        (["{}", "out", "--platforms", "gpu"], "the platform 'gpu' is called 'cuda'"),
        (["{}", "my-model"], "'my-model' is not a valid name of a Python package"),
        (["{}", "new/numpy"], "the name 'numpy' would hide another Python package"),
        (["{}", "out", "--batch-size", "0"], "the batch size is 0; it must be 1 or more"),
        (["{}", "there"], "there exists; give another name, or delete it first"),
        (["{}", "missing/out"], "missing/out: cannot be written (No such file or directory)"),
        (["nothing.pth", "out"], "there is no checkpoint 'nothing.pth'"),
    ],
)
def test_a_failing_export_is_one_error_line(export, checkpoint, arguments, expected):
    Path("there").mkdir()
    status, said = export(*(argument.format(checkpoint) for argument in arguments))
    assert status == 2
    assert said.startswith("error: ")
    assert expected in said
    assert said.count("\n") == 1
    assert [str(path) for path in Path().iterdir()] == ["there"]


def test_a_failed_export_leaves_nothing(export, checkpoint, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    assert export(checkpoint, "out", "--platforms", "cpu") == (
        2,
        "error: out: cannot be written (No space left on device)\n",
    )
    assert list(Path().iterdir()) == []


def link_distributions(environment: Path, *names: str) -> None:
    """Links installed distributions and what they require into an environment without packages."""
    (site,) = environment.glob("lib/python*/site-packages")
    waiting, linked = list(names), set()
    while waiting:
        found = distribution(waiting.pop())
        if found.name in linked:
            continue
        linked.add(found.name)
        for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(found.locate_file(top))
        needed = map(Requirement, found.requires or [])
        waiting += [one.name for one in needed if not one.marker or one.marker.evaluate()]


@pytest.mark.slow
def test_an_exported_model_needs_only_jax_and_numpy(export, tmp_path):
    """In an environment with nothing else, the bundled weights give the same result."""
    venv.create("fresh")
    link_distributions(tmp_path / "fresh", "jax", "numpy")
    python = tmp_path / "fresh" / "bin" / "python"
    assert export("demo", "out")[0] == 0
    image = skimage.data.astronaut()[100:220, 180:310]
    (restored,) = restored_elsewhere(
        tmp_path / "out", {"image": image}, tmp_path, python=python
    ).values()
    np.testing.assert_allclose(
        restored.astype(int), deblur(image, load_pretrained("demo")).astype(int), atol=1
    )


@pytest.mark.slow
def test_the_exported_base_model_equals_the_reference(base_model, golden, export, tmp_path):
    save_pretrained(base_model, tmp_path / "base.safetensors")
    assert export("base.safetensors", "out")[0] == 0
    image = golden["image_rgb"].astype(np.float32) / 255
    (restored,) = restored_elsewhere(tmp_path / "out", {"image": image}, tmp_path).values()
    difference = np.abs(restored - golden["restored_rgb"])
    assert difference.max() < 1e-3
    assert difference.mean() < 5e-5
