"""AVIF, HEIC and JPEG XL: depth, colors, orientation, metadata and damage."""

import contextlib
import importlib.util
import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from scipy.ndimage import gaussian_filter

from tests.data.image_io.made_up_files import SRGB, encoded, exif_block, loaded, noise
from tests.data.image_io.written_files import UPRIGHT_XMP, XMP, lost, pillow_info, png_chunks
from tests.data.image_io.written_files import rewritten as again
from vitdeblur_jax.data.image_io import DecodedImage, Metadata, read_image, size_of, write_image
from vitdeblur_jax.data.image_io.boxes import boxes
from vitdeblur_jax.utils.errors import UserError

HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
needs_heic = pytest.mark.skipif(not HAS_HEIC, reason="needs pillow-heif, of the extra 'heic'")
WRITTEN = [".avif", ".jxl", pytest.param(".heic", marks=needs_heic)]
SMOOTH = gaussian_filter(np.random.default_rng(0).random((40, 60, 4)), (4, 4, 0))
SMOOTH = (SMOOTH - SMOOTH.min()) / (SMOOTH.max() - SMOOTH.min())
SHAPES = {"gray": np.s_[..., 0], "gray, alpha": np.s_[..., :2], "RGB": np.s_[..., :3]}
SHAPES["RGB, alpha"] = np.s_[...]
ADOBE = imagecodecs.cms_profile("adobergb")
P3_PRIMARIES = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]


def samples(depth: int, which: object = np.s_[..., :3]) -> np.ndarray:
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.rint(SMOOTH[which] * (2**depth - 1)).astype(dtype)


def expected(stored: np.ndarray, depth: int) -> np.ndarray:
    """Returns the stored samples in the whole range of their type."""
    whole = 255 if depth == 8 else 65_535
    return np.rint(stored / (2**depth - 1) * whole).astype(stored.dtype)


def encode(suffix: str, stored: np.ndarray, depth: int, **options: object) -> bytes:
    """Encodes without loss."""
    if suffix == ".avif":
        return imagecodecs.avif_encode(stored, level=100, bitspersample=depth, **options)
    return imagecodecs.jpegxl_encode(stored, lossless=True, bitspersample=depth, **options)


@pytest.mark.parametrize(
    ("suffix", "depth"), [(".avif", d) for d in (8, 10, 12)] + [(".jxl", d) for d in (8, 10, 16)]
)
@pytest.mark.parametrize("kind", SHAPES)
def test_every_depth_is_read_exactly(suffix, depth, kind):
    stored = samples(depth, SHAPES[kind])
    decoded = read_image(encode(suffix, stored, depth))
    stored = np.atleast_3d(expected(stored, depth))
    assert decoded.is_gray == kind.startswith("gray")
    colors = stored[..., :1] if decoded.is_gray else stored[..., :3]
    np.testing.assert_array_equal(decoded.pixels, np.broadcast_to(colors, (40, 60, 3)))
    if "alpha" in kind:
        np.testing.assert_array_equal(decoded.alpha, stored[..., -1])
    else:
        assert decoded.alpha is None


def test_a_jxl_of_few_bits_fills_its_range():
    stored = samples(8) >> 4
    decoded = read_image(encode(".jxl", stored, 4))
    np.testing.assert_array_equal(decoded.pixels, stored * 17)


def test_a_lossy_avif_is_that_of_pillow():
    data = encoded(samples(8), "AVIF", quality=60)
    with Image.open(io.BytesIO(data)) as image:
        difference = np.asarray(image).astype(int) - read_image(data).pixels
    assert np.abs(difference).max() <= 3


def test_a_jxl_is_that_of_another_decoder():
    reader = pytest.importorskip("pillow_jxl", reason="needs pillow-jxl-plugin to compare with")
    for distance in (None, 1.0):
        stored = samples(8)
        data = imagecodecs.jpegxl_encode(stored, distance=distance, usecontainer=True)
        _, info, raw, _, _ = reader.Decoder()(data)
        other = np.frombuffer(raw, np.uint8).reshape(info.height, info.width, 3)
        assert np.abs(other.astype(int) - read_image(data).pixels).max() <= 1
    written = written_as(".jxl", DecodedImage(samples(16), metadata=Metadata(exif=exif_stream())))
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif()[271] == "Maker"
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)


def exif_stream() -> bytes:
    exif = exif_block()
    del exif[274]
    return exif.tobytes().removeprefix(b"Exif\0\0")


def written_as(suffix: str, image: DecodedImage, **options: object) -> bytes:
    stream = io.BytesIO()
    write_image(image, stream, suffix, **options)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_written_is_read_again(tmp_path, suffix, kind, depth):
    pixels = np.atleast_3d(samples(depth, SHAPES[kind]))
    is_gray, has_alpha = kind.startswith("gray"), "alpha" in kind
    colors = np.ascontiguousarray(np.broadcast_to(pixels[..., :1], (40, 60, 3)))
    colors = colors if is_gray else pixels[..., :3]
    metadata = Metadata(exif=exif_stream(), xmp=UPRIGHT_XMP)
    image = DecodedImage(colors, pixels[..., -1] if has_alpha else None, is_gray, metadata)
    path = tmp_path / f"photo{suffix}"
    write_image(image, path, quality=100 if suffix != ".jxl" else None)
    result = read_image(path)
    assert size_of(path) == (60, 40)
    is_deep = depth == 16 and suffix != ".avif"
    assert result.pixels.dtype == (np.uint16 if is_deep else np.uint8)
    before, after = colors / np.iinfo(colors.dtype).max, result.pixels.astype(float)
    after /= np.iinfo(result.pixels.dtype).max
    assert np.abs(before - after).mean() <= {".jxl": 0, ".avif": 0.004, ".heic": 0.01}[suffix]
    assert (result.alpha is not None) == has_alpha
    assert loaded(result.metadata.exif)[271] == "Maker"
    assert loaded(result.metadata.exif).get_ifd(0x8825)[1] == "N"
    assert result.metadata.xmp == UPRIGHT_XMP
    assert (result.metadata.icc_profile, result.metadata.png_color) == (None, {})
    assert result.notes == ()


@pytest.mark.parametrize("suffix", [".avif", pytest.param(".heic", marks=needs_heic)])
def test_a_profile_is_kept(suffix):
    data = written_as(suffix, DecodedImage(samples(8), metadata=Metadata(icc_profile=ADOBE)))
    assert read_image(data).metadata.icc_profile == ADOBE
    assert pillow_info(again(data, ".png"))["icc_profile"] == ADOBE


@pytest.mark.parametrize("depth", [8, 16])
def test_a_profile_becomes_colors_that_a_jxl_can_store(depth):
    stored = samples(depth)
    for profile, other in ((ADOBE, "Display P3"), (SRGB, "sRGB")):
        image = DecodedImage(stored, metadata=Metadata(icc_profile=profile))
        decoded = read_image(written_as(".jxl", image))
        color = decoded.metadata.png_color
        assert color == ({} if other == "sRGB" else {b"cICP": b"\x0c\x0d\0\1"})
        shown = again(written_as(".jxl", image), ".png")
        to_srgb = pillow_info(shown).get("icc_profile") or SRGB
        srgb = ImageCms.createProfile("sRGB")
        seen, meant = (
            np.asarray(
                ImageCms.profileToProfile(Image.fromarray(pixels), io.BytesIO(source), srgb)
            ).astype(int)
            for pixels, source in (
                ((read_image(shown).pixels >> (depth - 8)).astype(np.uint8), to_srgb),
                ((stored >> (depth - 8)).astype(np.uint8), profile),
            )
        )
        # Steps of 8 bits in dark channels are large after the conversion.
        assert np.abs(seen - meant).max() <= 8
        assert np.abs(seen - meant).mean() < 0.6
        (note,) = lost(encoded(samples(8), "PNG", icc_profile=profile), ".jxl")
        assert note == "JXL: colors are converted from the color profile to sRGB or Display P3"


def test_the_profile_of_a_recompressed_jpeg_is_kept():
    jpeg = encoded(samples(8), "JPEG", quality=95, icc_profile=ADOBE, subsampling=0)
    decoded = read_image(imagecodecs.jpegxl_encode_jpeg(jpeg))
    assert decoded.metadata.icc_profile == ADOBE
    assert np.abs(decoded.pixels.astype(int) - read_image(jpeg).pixels).max() <= 3


def test_a_profile_that_cannot_be_read_is_noted():
    """Without the box to restore the JPEG, only its pixels and the coded profile remain."""
    jpeg = encoded(samples(8), "JPEG", quality=95, icc_profile=ADOBE, subsampling=0)
    data = imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True)
    kept = [data[a - 8 : b] for kind, a, b in boxes(data) if kind != b"jbrd"]
    decoded = read_image(b"".join(kept))
    assert decoded.notes == ("the color profile cannot be read; colors may be off",)
    assert (decoded.metadata.icc_profile, decoded.metadata.png_color) == (None, {})
    np.testing.assert_array_equal(decoded.pixels, read_image(data).pixels)


def codes_of(suffix: str, primaries: int, transfer: int) -> bytes:
    if suffix == ".avif":
        options = {"primaries": primaries, "transfer": transfer}
        return imagecodecs.avif_encode(samples(10), level=90, bitspersample=10, **options)
    color = {b"cICP": bytes([primaries, transfer, 0, 1])}
    return written_as(suffix, DecodedImage(samples(16), metadata=Metadata(png_color=color)))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_color_codes(suffix):
    """Of HDR there is no profile; Display P3 becomes one; sRGB needs none."""
    hdr, wide, plain = (codes_of(suffix, *pair) for pair in ((9, 16), (12, 13), (1, 13)))
    assert read_image(hdr).metadata.png_color == {b"cICP": b"\x09\x10\0\1"}
    assert png_chunks(again(hdr, ".png"))[b"cICP"] == b"\x09\x10\0\1"
    assert "the color definition (CICP)" in lost(hdr, ".jpg")[-1]
    assert "icc_profile" not in pillow_info(again(hdr, ".jpg"))
    for format in (".png", ".jpg"):
        profile = io.BytesIO(pillow_info(again(wide, format))["icc_profile"])
        profile = ImageCms.ImageCmsProfile(profile).profile
        # Primaries in a profile are adapted to D50; the chromatic adaptation tag says how.
        adapted = np.linalg.inv(np.array(profile.chromatic_adaptation[0]))
        for name, point in zip(("red", "green", "blue"), P3_PRIMARIES, strict=True):
            xyz = adapted @ getattr(profile, f"{name}_primary")[0]
            np.testing.assert_allclose(xyz[:2] / xyz.sum(), point, atol=2e-3)
    assert "icc_profile" not in pillow_info(again(plain, ".jpg"))
    assert read_image(plain).metadata.png_color == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_an_avif(orientation):
    exif = exif_block(orientation)
    data = encoded(samples(8), "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    decoded = read_image(data)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.abs(np.asarray(upright).astype(int) - decoded.pixels).max() <= 1
    assert loaded(decoded.metadata.exif).get(274, 1) == 1


@needs_heic
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_of_a_heic(orientation):
    import pillow_heif

    buffer = io.BytesIO()
    exif = exif_block(orientation)
    image = Image.fromarray(samples(8))
    file = pillow_heif.from_pillow(image)
    upright = np.asarray(ImageOps.exif_transpose(with_exif(image, exif)))
    pillow_heif.encode(
        "RGB", (60, 40), samples(8).tobytes(), buffer, exif=exif.tobytes(), quality=100
    )
    decoded = read_image(buffer.getvalue())
    assert file.size == (60, 40)
    assert np.abs(upright.astype(int) - decoded.pixels).mean() < 3
    assert loaded(decoded.metadata.exif)[274] == 1


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "PNG", exif=exif.tobytes())))


class Bits:
    """Writes the header of a JPEG XL file by hand, the lowest bit first."""

    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def put(self, *pairs: tuple[int, int]) -> "Bits":
        for value, count in pairs:
            self.value |= value << self.count
            self.count += count
        return self

    def done(self) -> bytes:
        return b"\xff\x0a" + self.value.to_bytes(-(-self.count // 8), "little")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jxl(tmp_path, orientation):
    """The header of this encoder is replaced by one with an orientation."""
    stored = samples(8)
    data = imagecodecs.jpegxl_encode(stored, lossless=True)
    size = [(1, 1), (4, 5), (4, 3)]  # 40 in eighths, and the ratio 3:2
    until_colors = [(0, 3), (1, 1), (0, 3), (1, 1)]  # 8 bits, small buffers, no XYB, sRGB
    old = Bits().put(*size, (0, 2), *until_colors, (0, 2), (1, 1))
    assert data.startswith(old.done())
    more = [(1, 1), (orientation - 1, 3), (0, 3)]
    new = Bits().put(*size, (0, 1), *more, *until_colors, (1, 1), (0, 2), (1, 1))
    path = tmp_path / "photo.jxl"
    turned = new.done() + data[len(old.done()) :]
    path.write_bytes(turned)
    exif = exif_block(orientation).tobytes()
    upright = np.asarray(ImageOps.exif_transpose(with_exif(Image.fromarray(stored), exif_of(exif))))
    np.testing.assert_array_equal(read_image(path).pixels, upright)
    assert size_of(path) == upright.shape[1::-1]
    parts = {b"ftyp": b"jxl \0\0\0\0jxl ", b"xml ": XMP, b"jxlc": turned}
    boxed = [struct.pack(">I", len(part) + 8) + kind + part for kind, part in parts.items()]
    decoded = read_image(b"\0\0\0\x0cJXL \r\n\x87\n" + b"".join(boxed))
    np.testing.assert_array_equal(decoded.pixels, upright)
    assert (b'Orientation="1"' in decoded.metadata.xmp) == (orientation != 1)


def exif_of(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


@pytest.mark.parametrize("size", [(8, 8), (256, 256), (300, 200), (48, 64), (513, 7), (160, 90)])
def test_the_size_of_a_jxl(tmp_path, size):
    path = tmp_path / "photo.jxl"
    for options in ({"lossless": True}, {"distance": 1.0}, {"usecontainer": True}):
        path.write_bytes(imagecodecs.jpegxl_encode(noise(size[1], size[0], 3), **options))
        assert size_of(path) == size


def test_a_jxl_with_compressed_metadata():
    exif = b"Exif" + bytes(4) + exif_stream()
    data = written_as(".jxl", DecodedImage(samples(8)))
    packed = imagecodecs.brotli_encode(exif[4:])
    data += struct.pack(">I", len(packed) + 12) + b"brobExif" + packed
    assert loaded(read_image(data).metadata.exif)[271] == "Maker"


def test_only_the_first_frame():
    frames = np.stack([samples(8), samples(8)[::-1]])
    data = imagecodecs.jpegxl_encode(frames, lossless=True, photometric="RGB")
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels, frames[0])
    assert decoded.notes == ("animation: only the first frame is used",)


def test_floats_are_refused():
    data = imagecodecs.jpegxl_encode(SMOOTH[..., :3].astype(np.float32))
    with pytest.raises(UserError, match="floating-point samples"):
        read_image(data)


def bomb(suffix: str) -> bytes:
    if suffix == ".jxl":
        sides = [(3, 2), (2**14 - 1, 30)]
        return Bits().put((0, 1), *sides, (0, 3), *sides, (1, 1)).done() + bytes(100)
    return with_other_size(written_as(suffix, DecodedImage(samples(8))))


def with_other_size(data: bytes) -> bytes:
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", 2**14, 2**14) + data[at + 8 :]


@needs_heic
@pytest.mark.parametrize("make", ["SONY", "Canon", None])
def test_a_sony_heic_is_of_full_range_whatever_its_box_says(make):
    import pillow_heif

    exif = Image.Exif()
    if make:
        exif[271] = make
    stored, buffer = samples(10), io.BytesIO()
    pillow_heif.encode(
        *("RGB;10", (60, 40), stored.tobytes(), buffer),
        **{"quality": -1, "chroma": "444", "bit_depth": 10, "exif": exif.tobytes()},
        **{"color_primaries": 1, "transfer_characteristics": 13, "matrix_coefficients": 5},
        full_range_flag=1,
    )
    whole = read_image(buffer.getvalue()).pixels.astype(int)
    assert np.abs(whole - expected(stored, 10)).max() <= 3 * 64  # of the conversion to YCbCr
    data = buffer.getvalue()
    flag = data.index(b"colrnclx") + 14
    stretched = read_image(data[:flag] + b"\0" + data[flag + 1 :]).pixels
    if make == "SONY":
        np.testing.assert_array_equal(stretched, whole)
    else:
        limits = np.array([16, 235]) * 65_535 / 255
        luma = whole[..., 1].astype(float)
        wanted = np.clip((luma - limits[0]) / (limits[1] - limits[0]), 0, 1) * 65_535
        assert np.abs(stretched[..., 1] - wanted).mean() < 0.02 * 65_535


@needs_heic
def test_a_heic_with_a_crop_outside_of_the_image_is_refused():
    """Libheif leaves such an image uncropped: it has another size than the header says."""
    data = written_as(".heic", DecodedImage(samples(8)))
    at = data.index(b"clap") + 4
    crop = list(struct.unpack(">8i", data[at : at + 32]))  # fractions: width, height, offsets
    assert crop[:4] == [60, 1, 40, 1]
    crop[4] -= 1000
    with pytest.raises(UserError, match="damaged"):
        read_image(data[:at] + struct.pack(">8i", *crop) + data[at + 32 :])


@needs_heic
def test_a_large_heic_is_refused_before_it_is_decoded(monkeypatch):
    """Libheif refuses a size other than that of the coded image by itself."""
    import pillow_heif

    data = written_as(".heic", DecodedImage(samples(8)))
    monkeypatch.setattr(pillow_heif.HeifImage, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("vitdeblur_jax.data.image_io.formats.MEMORY_LIMIT", 10**4)
    with pytest.raises(UserError, match=r"60 x 40 pixels take .* GiB to decode"):
        read_image(data)
    monkeypatch.undo()
    with pytest.raises(UserError, match="damaged"):
        read_image(with_other_size(data))


@pytest.mark.parametrize("suffix", [".avif", ".jxl"])
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch, suffix):
    for name in ("avif_decode", "jpegxl_decode"):
        monkeypatch.setattr(imagecodecs, name, lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"16384 x 16384 pixels take .* GiB to decode"):
        read_image(bomb(suffix))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_file_cut_short_is_one_line(suffix, capfd):
    data = written_as(suffix, DecodedImage(samples(8), metadata=Metadata(exif=exif_stream())))
    for size in (13, 40, len(data) // 3, len(data) // 2, len(data) - 20):
        with pytest.raises(UserError) as caught:
            read_image(data[:size])
        assert "\n" not in str(caught.value)
    generator = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for at in generator.integers(12, len(data), 4):
            broken[at] = generator.integers(256)
        with contextlib.suppress(UserError):
            read_image(bytes(broken))
    assert capfd.readouterr().err == ""


@needs_heic
@pytest.mark.parametrize("primary", [0, 1])
def test_the_primary_image_of_a_heic_is_read(primary):
    import pillow_heif

    images = samples(8), samples(8)[::-1]
    file = pillow_heif.from_pillow(Image.fromarray(images[0]))
    file.add_from_pillow(Image.fromarray(images[1]))
    buffer = io.BytesIO()
    file.save(buffer, quality=90, primary_index=primary)
    decoded = read_image(buffer.getvalue())
    assert np.abs(decoded.pixels.astype(int) - images[primary]).mean() < 3
    assert decoded.notes == ("only the primary one of 2 images in the file is used",)
