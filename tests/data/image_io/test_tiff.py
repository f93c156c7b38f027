"""TIFF by tifffile and imagecodecs, against Pillow, which decodes by libtiff."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.image_io.made_up_files import encoded, noise, tiff
from vitdeblur_jax.data.image_io import DecodedImage, read_image, size_of, write_image

PIXELS = noise(21, 35, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"]
)
def test_eight_bits_agree_with_libtiff(mode, compression):
    data = encoded(Image.fromarray(PIXELS).convert(mode), "TIFF", compression=compression)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGBA"))
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels, expected[..., :3])
    assert decoded.is_gray == (mode in ("1", "L", "LA"))
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(decoded.alpha, expected[..., 3])


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_jpeg_in_a_tiff_agrees_with_libtiff(subsampling):
    options = {"compression": "jpeg", "subsampling": subsampling, "rowsperstrip": 16}
    data = tiff(PIXELS[..., :3], photometric="rgb", **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(data).pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_few_bits_take_the_whole_range(bits, photometric):
    samples = noise(6, 9) >> (8 - bits)
    samples = samples.astype(bool) if bits == 1 else samples
    data = tiff(samples, photometric=photometric, bitspersample=bits)
    levels = np.round(samples.astype(float) * 255 / (2**bits - 1)).astype(np.uint8)
    expected = levels if photometric == "minisblack" else 255 - levels
    np.testing.assert_array_equal(read_image(data).pixels[..., 0], expected)


def test_ycbcr_without_jpeg_agrees_with_libtiff():
    image = Image.fromarray(PIXELS[..., :3]).convert("YCbCr")
    data = encoded(image, "TIFF")
    np.testing.assert_array_equal(read_image(data).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 5}])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_strips_and_predictors(layout, predictor, dtype):
    samples = noise(21, 35, 3, dtype=dtype)
    options = {"photometric": "rgb", "compression": "zlib", "predictor": predictor}
    np.testing.assert_array_equal(read_image(tiff(samples, **options, **layout)).pixels, samples)


def test_premultiplied_eight_bits():
    samples = np.array([[[100, 50, 0, 200], [0, 0, 0, 0]]], np.uint8)
    decoded = read_image(tiff(samples, photometric="rgb", extrasamples=["assocalpha"]))
    assert decoded.pixels.tolist() == [[[128, 64, 0], [0, 0, 0]]]


def test_a_hole_in_the_pixels_is_refused():
    data = tiff(PIXELS[..., :3], photometric="rgb", compression="zlib", rowsperstrip=7)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags[279]  # byte counts of the strips
    data = data[: tag.valueoffset] + bytes(4) + data[tag.valueoffset + 4 :]
    with pytest.raises(ValueError, match="cut short"):
        read_image(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_written_tiff_is_what_three_decoders_read(dtype):
    samples = noise(21, 35, 3, dtype=dtype)
    stream = io.BytesIO()
    write_image(DecodedImage(samples), stream, format=".tif")
    data = stream.getvalue()
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), samples)
    np.testing.assert_array_equal(read_image(data).pixels, samples)
    if dtype == np.uint8:
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image), samples)


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # of Pillow
def test_only_the_log_of_our_own_reading_is_dropped(tmp_path, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb", description="x" * 30)
    data = path.read_bytes()
    place = data.index(b"xxxx").to_bytes(4, "little")
    path.write_bytes(data.replace(place, (10**6).to_bytes(4, "little")))
    assert read_image(path).pixels.shape == (8, 8, 3)
    assert size_of(path) == (8, 8)
    assert caplog.records == []
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.imagewidth == 8
    assert "invalid value offset" in caplog.text


@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize(("photometric", "channels"), [("separated", 5), ("ycbcr", 4)])
def test_alpha_that_is_left_out_is_told(photometric, channels, alpha):
    samples = noise(6, 5, channels)
    decoded = read_image(tiff(samples, photometric=photometric, extrasamples=[alpha]))
    assert decoded.alpha is None
    assert decoded.pixels.shape == (6, 5, 3)
    assert "transparency is left out" in decoded.notes


def test_premultiplied_cmyk_is_divided_by_alpha():
    samples = np.full((6, 5, 5), 64, np.uint8)
    samples[..., 4] = 128  # half transparent, so the ink is 127.5
    decoded = read_image(tiff(samples, photometric="separated", extrasamples=["assocalpha"]))
    opaque = read_image(tiff(np.full((6, 5, 4), 128, np.uint8), photometric="separated"))
    np.testing.assert_allclose(decoded.pixels, opaque.pixels, atol=2)
