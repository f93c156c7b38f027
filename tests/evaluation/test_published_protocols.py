"""The published evaluations, against NumPy and scikit-image as each system's code uses them."""

import json

import numpy as np
import pytest
from skimage import metrics

from configs.evaluate import get_config
from tests.made_up_data import random_image, write_png
from tests.metrics.golden_pairs import as_floats, golden_pair
from tests.published_networks import random_variables
from vitdeblur_jax import Pretrained, create, deblur, load_pretrained, save_pretrained
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.evaluation import evaluate
from vitdeblur_jax.evaluation.measure import load_metrics
from vitdeblur_jax.evaluation.profiles import PROFILES, PUBLISHED, find_profile, find_protocol
from vitdeblur_jax.evaluation.score import Method, score
from vitdeblur_jax.inference import chosen_tiling
from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.utils.errors import UserError

SIZE = (44, 52)
STRIDE = 30


def upper(image):
    return (image >> 8).astype(np.uint8)


def cropped(multiple):
    return lambda image: image[
        : image.shape[0] // multiple * multiple, : image.shape[1] // multiple * multiple
    ]


def on_black(start):
    """Pastes the image on a black canvas of 48 x 64, at the half or the whole of the difference."""

    def paste(image):
        canvas = np.zeros((48, 64, 3), image.dtype)
        top, left = (4, 12) if start else (2, 6)
        canvas[top : top + 44, left : left + 52] = image
        return canvas

    return paste


def mirrored(image):
    return np.pad(image, ((2, 2), (6, 6), (0, 0)), mode="reflect")


def psnr(output, sharp, whole=1):
    return metrics.peak_signal_noise_ratio(sharp, output, data_range=whole)


def uniform_ssim(output, sharp):
    return metrics.structural_similarity(sharp, output, data_range=1, channel_axis=-1)


def mae(output, sharp):
    return np.mean([np.abs(output[..., i] - sharp[..., i]).mean() for i in range(3)])


def gaussian_ssim(output, sharp):
    """As pytorch_msssim, for values of 0 to 255."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return metrics.structural_similarity(sharp, output, data_range=255, channel_axis=-1, **options)


def with_floats(output, sharp):
    return {"psnr": psnr(output, sharp), "ssim": uniform_ssim(output, sharp)}


def with_mae(output, sharp):
    return with_floats(output, sharp) | {"mae": mae(output, sharp)}


def with_clipped(measure):
    return lambda output, sharp: measure(output.clip(0, 1), sharp)


def with_file_of_8_bits(output, sharp):
    return with_mae(np.floor((255 * output).clip(0, 255) + 0.5) / 255, sharp)


def with_whole_numbers(output, sharp):
    output, sharp = np.round(255 * output), np.round(255 * sharp)
    return {
        "psnr": psnr(output.clip(0, 255), sharp, 255),
        "ssim_gaussian": gaussian_ssim(output, sharp),
    }


def rounded(output, whole):
    return np.round(output.clip(0, 1) * np.float32(whole))


def rounded_down(output, whole):
    return np.floor(output.clip(0, 1) * np.float32(whole))


# What each does with the pixels of a 16-bit file, with their size, with the output, and to save it.
CASES = {
    "aifnet": (upper, cropped(16), with_floats, rounded),
    "mdp": (lambda image: image, on_black(start=True), with_mae, rounded_down),
    "kpac": (upper, lambda image: image, with_file_of_8_bits, rounded),
    "ifanet": (upper, cropped(8), with_clipped(with_mae), rounded),
    "gkmnet": (upper, on_black(start=False), with_whole_numbers, rounded),
    "drbnet": (upper, cropped(16), with_clipped(with_floats), rounded),
    "restormer": (upper, lambda image: image, with_clipped(with_mae), rounded),
    "nrknet": (upper, mirrored, with_whole_numbers, rounded),
}


@pytest.fixture
def files(tmp_path):
    """One pair of 16 bits; returns its pixels."""
    pair = [random_image(seed, SIZE, 16) for seed in (0, 1)]
    for folder, pixels in zip(("input", "ground_truth"), pair, strict=True):
        write_png(tmp_path / "data" / folder / "a.png", pixels)
    return pair


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_pretrained(small, path)
    return path


@pytest.fixture
def run(tmp_path, checkpoint):
    def run_with(**changes):
        config = get_config("pairs")
        config.update(checkpoint=str(checkpoint), data_dir=str(tmp_path / "data"), stride=STRIDE)
        config.update(changes)
        evaluate(config, tmp_path / "results")
        return json.loads((tmp_path / "results/metrics.json").read_text())

    return run_with


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_published_protocol_is_tested():
    assert set(PUBLISHED) == {*CASES, "dpdnet", "vitdeblur"}


@pytest.mark.parametrize("name", CASES)
def test_a_run_with_a_profile(name, tmp_path, files, checkpoint, run):
    read, fit, measure, to_file = CASES[name]
    blurred, sharp = (fit(read(image)) for image in files)
    whole = np.iinfo(blurred.dtype).max
    output = deblur(blurred / np.float32(whole), load_pretrained(checkpoint), stride=STRIDE)
    assert output.min() < 0
    assert output.max() > 1
    saved = to_file(output, whole).astype(blurred.dtype)
    by = {"input": blurred / whole, "output": output.astype(float), "saved": saved / whole}
    expected = {key: measure(image, sharp / whole) for key, image in by.items()}
    found = run(profile=name, metrics=",".join(expected["output"]))
    np.testing.assert_array_equal(read_rgb(tmp_path / "results/restored/a.png"), saved)
    for method in found["methods"]:
        figures = method["images"]["a"]["metrics"]
        assert figures == pytest.approx(expected[method["name"]], rel=1e-5)
    assert found["notes"][0].startswith(f"profile {find_profile(name).system}: ")
    # The saved folder gives the same figures.
    scored = score(
        tmp_path / "data",
        "pairs",
        [Method("a", tmp_path / "results")],
        list(expected["output"]),
        profile=find_protocol(name),
    )
    assert scored["methods"][0]["images"]["a"]["metrics"] == figures
    assert scored["definitions"] == found["definitions"]
    assert scored["notes"][-1] == found["notes"][0]


def test_profiles_differ_from_the_uniform_protocol_and_say_so(files, run):
    plain = METRICS["psnr"].definition
    assert run(profile="nrknet", metrics="psnr")["definitions"]["psnr"]["definition"] == (
        f"{plain}; values rounded to 8 bits"
    )
    assert "profile: 'nrknet' there, '' here" in refusal(run, metrics="psnr")


def test_the_profile_chooses_metrics_and_bits(files, run):
    found = run(profile="aifnet")
    assert list(found["definitions"]) == ["psnr", "ssim"]
    assert found["config"]["metrics"] == "psnr,ssim"
    assert found["config"]["bit_depth"] == 8
    assert find_protocol("restormer").protocol.bits(views=2) == (16,)
    assert find_protocol("nrknet").protocol.metrics == ("psnr", "ssim_gaussian", "lpips_alex")


@pytest.mark.parametrize("name", ["dpdnet", "vitdeblur"])
def test_protocols_of_large_images(name):
    protocol, rng = find_protocol(name).protocol, np.random.default_rng(0)
    output, sharp = rng.normal(0.5, 0.4, (20, 24, 3)).astype(np.float32), rng.random((20, 24, 3))
    measure, _, _ = load_metrics(["psnr", "ssim", "mae"], None, protocol)
    raw = output.astype(float)
    expected = with_mae(raw if name == "dpdnet" else raw.clip(0, 1), sharp)
    assert measure(output, sharp) == pytest.approx(expected, rel=1e-6)
    dtype = np.uint16 if name == "dpdnet" else np.uint8
    saved = protocol.saved(output, dtype)
    np.testing.assert_array_equal(saved, rounded_down(output, np.iinfo(dtype).max))
    assert protocol.bits(1) == ((16,) if name == "dpdnet" else (8,))


@pytest.mark.parametrize(
    ("name", "ssim", "golden"),
    [
        ("drbnet", "ssim", "ssim_uniform7"),
        ("aifnet", "ssim", "ssim_uniform7"),
        ("nrknet", "ssim_gaussian", "ssim_gaussian_skimage"),
    ],
)
def test_golden_figures_of_files_of_8_bits(name, ssim, golden):
    """Rounding and clipping leave these as they are."""
    pair = golden_pair("astronaut")
    measure, _, _ = load_metrics(["psnr", ssim], None, find_protocol(name).protocol)
    found = measure(*as_floats(pair))
    expected = {"psnr": pair.figures["psnr"], ssim: pair.figures[golden]}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        ("gkmnet", "lpips_alex", lambda x: x),
        ("nrknet", "lpips_alex", lambda x: np.round(255 * x[..., ::-1]) / 255 * 2 - 1),
        ("drbnet", "lpips_alex", lambda x: x.clip(0, 1) * 2 - 1),
        ("vitdeblur", "lpips_squeeze", lambda x: x[..., ::-1].clip(0, 1) * 2 - 1),
    ],
)
def test_what_lpips_gets(name, metric, expected):
    """The metric maps [0, 1] to [-1, 1]; the networks below get what the published code gives."""
    image = np.random.default_rng(0).normal(0.5, 0.4, (5, 6, 3)).astype(np.float32)
    given = 2 * find_protocol(name).protocol.values_for(metric).of(image) - 1
    np.testing.assert_allclose(given, expected(image), rtol=0, atol=1e-6)


# Folders as the systems save them


def scored(root, folder, profile, names=("psnr",)):
    (method,) = score(
        root, "pairs", [Method("m", folder)], list(names), profile=find_protocol(profile)
    )["methods"]
    return method["images"]["a"]


def test_saved_images_are_measured_with_their_padding(tmp_path, files):
    image, sharp = mirrored(random_image(5, SIZE)), mirrored(upper(files[1]))
    write_png(tmp_path / "nrknet/0000.png", image)
    found = scored(tmp_path / "data", tmp_path / "nrknet", "nrknet", ("psnr", "ssim_gaussian"))
    assert found["metrics"] == pytest.approx(with_whole_numbers(image / 255, sharp / 255), rel=1e-6)
    assert found["size_note"] == "padded to a multiple of 16 all around by reflection"


def test_saved_images_of_other_systems_are_cut_to_the_frame(tmp_path, files):
    image, sharp = random_image(5, SIZE), upper(files[1])
    write_png(tmp_path / "whole/a.png", image)
    below = np.pad(image, ((0, 4), (0, 12), (0, 0)), mode="reflect")
    write_png(tmp_path / "vitdeblur/a_recover.png", below)
    fit = cropped(8)
    expected = psnr(fit(image) / 255, fit(sharp) / 255)
    for folder in ("whole", "vitdeblur"):
        found = scored(tmp_path / "data", tmp_path / folder, "ifanet")
        assert found["metrics"]["psnr"] == pytest.approx(expected, rel=1e-6)
        assert "cropped to a multiple of 8" in found["size_note"]


def test_targets_have_the_depth_of_the_protocol(tmp_path, files):
    """MDP compares with 16 bits, whatever the image; the others with the upper 8."""
    for bits in (8, 16):
        write_png(tmp_path / f"{bits}/a.png", on_black(start=True)(random_image(5, SIZE, bits)))
        image = on_black(start=True)(random_image(5, SIZE, bits)) / (2**bits - 1)
        expected = psnr(image, on_black(start=True)(files[1]) / 65535)
        found = scored(tmp_path / "data", tmp_path / str(bits), "mdp")
        assert found["metrics"]["psnr"] == pytest.approx(expected, rel=1e-6)
    write_png(tmp_path / "deep/a.png", random_image(5, SIZE, 16))
    expected = psnr(random_image(5, SIZE, 16) / 65535, upper(files[1]) / 255)
    found = scored(tmp_path / "data", tmp_path / "deep", "restormer")
    assert found["metrics"]["psnr"] == pytest.approx(expected, rel=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"profile": "dpdnet"}, "the profile DPDNet takes images of 1680 x 1120 pixels"),
        ({"profile": "vitdeblur"}, "sides of 320 pixels or more"),
        ({"profile": "restomer"}, "--config.profile is 'restomer' (did you mean 'restormer'?)"),
        ({"profile": "basicsr"}, "--config.profile is 'basicsr'"),
        ({"profile": "mdp", "bit_depth": 8}, "the profile MDP reads 16 bits, and --config.bit_d"),
        ({"profile": "drbnet", "bit_depth": 16}, "the profile DRBNet reads 8 bits"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, files, run, changes, expected):
    assert expected in refusal(run, **changes)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [("nrknet", (45, 52), "even sides"), ("kpac", (46, 52), "sides that are multiples of 4")],
)
def test_sizes_that_the_published_code_does_not_take(tmp_path, run, name, size, wanted):
    for folder in ("input", "ground_truth"):
        write_png(tmp_path / "data" / folder / "a.png", random_image(0, size))
    expected = f"takes {wanted}, and {tmp_path}/data/input/a.png is {size[1]} x {size[0]}"
    assert expected in refusal(run, profile=name)
    write_png(tmp_path / "saved/a.png", random_image(0, size))
    assert f"takes {wanted}" in refusal(scored, tmp_path / "data", tmp_path / "saved", name)


@pytest.mark.parametrize(
    ("profile", "running", "image"),
    [
        ("nrknet", "nrknet", "nrknet_image_statistics"),
        ("gkmnet", "gkmnet_running_statistics", "gkmnet"),
    ],
)
def test_running_statistics_do_not_fit(profile, running, image):
    found = find_protocol(profile)
    said = refusal(found.protocol.check_network, found.system, create(running))
    assert said.endswith(f"add --config.network={image}")
    for network in (create(image), create("restormer")):
        found.protocol.check_network(found.system, network)


@pytest.fixture
def kpac(tmp_path):
    """The path of a small network that takes the whole image."""
    network = create("kpac", width=4)
    pretrained = Pretrained(network, random_variables(network), "random")
    save_pretrained(pretrained, tmp_path / "kpac.safetensors")
    return str(tmp_path / "kpac.safetensors")


def test_tiles_do_not_fit_a_network_of_whole_images(files, run, kpac):
    changes = {"checkpoint": kpac, "stride": 0, "profile": "kpac"}
    said = refusal(run, **changes, tile=16)
    assert said == "the profile KPAC takes the whole image; leave out --config.tile"


def test_too_little_memory_for_the_whole_image(tmp_path, files, run, kpac, monkeypatch):
    """A published evaluation is refused; other figures get a note."""
    monkeypatch.setattr(chosen_tiling, "_tile_that_fits", lambda *_: 16)
    changes = {"checkpoint": kpac, "stride": 0, "metrics": "psnr"}
    said = refusal(run, **changes, profile="kpac")
    assert "a.png does not fit into memory as a whole" in said
    found = run(**changes)
    assert found["restored"]["a"]["approximate_tile"] == 16
    assert found["notes"][-1].startswith("1 of 1 images were restored approximately, in tiles")


def test_saved_images_that_lack_part_of_the_frame(tmp_path, files):
    write_png(tmp_path / "whole/a.png", random_image(0, SIZE))
    said = refusal(scored, tmp_path / "data", tmp_path / "whole", "nrknet")
    assert "a.png is 52 x 44; the profile NRKNet measures 64 x 48, padded to a" in said
    below = np.pad(random_image(0, SIZE), ((0, 4), (0, 12), (0, 0)), mode="reflect")
    write_png(tmp_path / "below/a_recover.png", below)  # as ViTDeblur pads
    said = refusal(scored, tmp_path / "data", tmp_path / "below", "nrknet")
    assert "measures 64 x 48, padded to a multiple of 16 all around by reflection, and this" in said
    write_png(tmp_path / "small/a.png", random_image(0, (32, 48)))
    assert "the profile IFANet measures 48 x 40" in refusal(
        scored, tmp_path / "data", tmp_path / "small", "ifanet"
    )


def test_a_profile_without_a_published_evaluation():
    assert "unknown profile 'basicsr'" in refusal(find_protocol, "BasicSR")
    assert find_protocol("NRKNet").system == "NRKNet"
    assert {one.system.casefold() for one in PROFILES if one.protocol} == set(PUBLISHED)
