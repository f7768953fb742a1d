"""Image files of every kind: decoded alike from bytes, paths and rows, or refused with a reason."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnet_hub.errors import UserError
from resnet_hub.images import decoding
from resnet_hub.images.decoding import (
    MAX_PIXELS,
    BadImageError,
    ColorMode,
    color_mode,
    open_image,
    read_header,
)


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Every corner has a color of its own, so that turned and mirrored images differ."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    """Detail everywhere: no two ways to decode it give the same pixels by chance."""
    values = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    return Image.fromarray(values).resize((width, height))


def file_of(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header promises any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    "mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"]
)
def test_images_of_every_mode_become_rgb_and_gray(mode: str):
    source = (
        Image.fromarray(np.full((5, 6), 200, dtype=np.uint16)) if mode == "I;16" else gradient().convert(mode)
    )
    format = {"LAB": "TIFF", "F": "TIFF", "I": "TIFF", "CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")
    for wanted in ("RGB", "L"):
        image = open_image(file_of(source, format), wanted)
        assert (image.mode, image.size) == (wanted, source.size)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = open_image(file_of(Image.fromarray(values), "PNG"), "L")
    assert np.array_equal(pixels(image), np.rint(values / 257))
    assert len(np.unique(pixels(image))) > 200


def test_floating_point_between_0_and_1_fills_the_range():
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    image = open_image(file_of(Image.fromarray(values), "TIFF"), "L")
    assert np.array_equal(pixels(image).ravel(), np.arange(256))


def test_values_without_a_known_scale_are_refused():
    values = np.array([[-1000.0, 3000.0]], dtype=np.float32)
    with pytest.raises(BadImageError, match="scale is unknown"):
        open_image(file_of(Image.fromarray(values), "TIFF"))
    with pytest.raises(BadImageError, match="not finite"):
        open_image(file_of(Image.fromarray(values * np.nan), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str):
    hidden = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    hidden.putpixel((0, 0), (0, 0, 0, 255))
    image = open_image(file_of(hidden.convert(mode), "PNG"))
    assert image.getpixel((3, 3)) == (255, 255, 255)
    assert image.getpixel((0, 0)) == (0, 0, 0)
    plain = Image.new("RGB", (1, 1), (10, 20, 30))
    assert open_image(file_of(plain, "PNG")).getpixel((0, 0)) == (10, 20, 30)
    declared = file_of(plain, "PNG", transparency=(10, 20, 30))
    assert open_image(declared).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_out_upright(orientation: int, format: str):
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = file_of(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored))).convert("RGB")
    header = read_header(stored)
    assert (header.width, header.height) == upright.size
    assert np.array_equal(pixels(header.decode()), pixels(upright))
    assert upright.size == ((48, 64) if orientation >= 5 else (64, 48))
    image = open_image(stored)
    for again in (open_image(image), read_header(image).pixels()):  # not turned once more
        assert np.array_equal(np.asarray(again), np.asarray(image))


def test_orientations_are_upright_at_reduced_scale_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = file_of(gradient(640, 480), "JPEG", exif=exif)
    assert open_image(stored, at_least=(60, 80)).size == (60, 80)
    assert open_image(stored, at_least=(61, 80)).size == (120, 160)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_broken_exif_block_does_not_matter(exif: bytes):
    assert open_image(file_of(gradient(), "JPEG", exif=exif)).size == (64, 48)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_give_their_first_frame(format: str):
    frames = [Image.new("RGB", (8, 8), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    red, green, _ = open_image(file_of(frames[0], format, save_all=True, append_images=frames[1:])).getpixel(
        (4, 4)
    )
    assert red > 150
    assert green < 50


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_common_formats_are_read(format: str):
    assert open_image(file_of(gradient(), format)).size == (64, 48)


def test_bytes_paths_rows_and_pictures_give_the_same_pixels(tmp_path: Path):
    data = file_of(gradient(), "JPEG")
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    picture = Image.open(path)
    sources = (data, bytearray(data), path, str(path), {"bytes": data, "path": None}, picture)
    images = [pixels(open_image(source)) for source in sources]
    images.append(pixels(open_image({"bytes": None, "path": str(path)})))
    assert all(np.array_equal(image, images[0]) for image in images)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "zero bytes"),
        ({"bytes": b"", "path": None}, "zero bytes"),
        ({"bytes": None, "path": None}, "is missing"),
        ("absent.jpg", "No such file"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 64, "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (bytes(range(200)), "not an image of a known format"),
        (png_that_claims(20_000, 20_000), "too large"),
        (png_that_claims(8_001, 8_000), "too large"),
        (png_that_claims(1, 50_000), "too thin"),
        (png_that_claims(4_000, 1), "too thin"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_usable_image_is_refused_with_the_reason(source: Any, reason: str):
    with pytest.raises(BadImageError, match=reason):
        open_image(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused_at_full_and_reduced_scale(format: str, share: float):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(noise), format)
    for at_least in (None, (1, 1)):
        with pytest.raises(BadImageError):
            open_image(data[: int(share * len(data))], at_least=at_least)


def test_the_limit_of_pixels_is_checked_before_decoding():
    side = int(MAX_PIXELS**0.5)
    header = read_header(png_that_claims(side, side))
    assert header.width * header.height <= MAX_PIXELS
    with pytest.raises(BadImageError, match="damaged"):
        header.decode()


def test_compressed_text_in_a_png_is_not_expanded_without_limit():
    bomb = zlib.compress(b"a" * 50_000_000, 9)
    chunk = b"zTXtcomment\0\0" + bomb
    data = file_of(gradient(), "PNG")
    end = data.index(b"IDAT") - 4
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadImageError):
        open_image(data[:end] + framed + data[end:])


def test_jpegs_are_decoded_no_larger_than_needed_and_never_smaller():
    data = file_of(gradient(800, 600), "JPEG")
    for at_least, size in (((100, 75), (100, 75)), ((101, 75), (200, 150)), ((399, 200), (400, 300))):
        assert open_image(data, at_least=at_least).size == size
    assert open_image(data).size == (800, 600)
    assert open_image(data, at_least=(9000, 9000)).size == (800, 600)


def test_models_with_odd_numbers_of_channels_are_refused():
    assert (color_mode(1), color_mode(3)) == ("L", "RGB")
    with pytest.raises(UserError, match="4 input channels"):
        color_mode(4)


@pytest.mark.parametrize("at_least", [None, (200, 150), (30, 40), (1, 1), (5000, 5000)], ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_fast_decoder_gives_the_pixels_of_pillow(orientation: int, at_least: tuple[int, int] | None):
    assert decoding.decode_jpeg is not None, "pip install 'resnet_hub[finetune]' brings simplejpeg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("JPEG", "MPO"):
        stored = file_of(noise(643, 481), format, exif=exif, quality=90)
        expected = pixels(read_header(stored).decode(at_least=at_least))
        assert np.array_equal(read_header(stored).pixels(at_least=at_least), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 1},
        {"quality": 100, "subsampling": 0},
        {"subsampling": 2, "progressive": True},
        {"optimize": True, "restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
    ids=str,
)
def test_the_fast_decoder_gives_the_pixels_of_pillow_for_every_kind_of_jpeg(options: dict):
    stored = file_of(noise(129, 65), "JPEG", **options)
    for at_least in (None, (40, 20)):
        expected = pixels(read_header(stored).decode(at_least=at_least))
        assert np.array_equal(read_header(stored).pixels(at_least=at_least), expected)


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({}, True),
        ({"subsampling": 2, "progressive": True}, True),
        ({"optimize": True, "restart_marker_blocks": 3, "comment": b"a comment"}, True),
        ({"keep_rgb": True}, True),
        ({"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}, False),
        ({"icc_profile": b"a profile"}, False),
    ],
    ids=str,
)
def test_the_header_of_a_plain_jpeg_is_read_without_pillow_and_says_the_same(options: dict, is_plain: bool):
    stored = file_of(noise(129, 65), "JPEG", **options)
    found = read_header(stored)
    assert (found.opened is None) is is_plain
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    assert (found.width, found.height) == upright.size
    assert found.file.format == "JPEG"
    for length in range(2, min(700, len(stored)), 7):  # cut anywhere in the header: Pillow has the say
        with pytest.raises(BadImageError):
            read_header(stored[:length]).pixels()


def test_gray_and_four_channel_jpegs_are_pillows_business():
    for mode in ("L", "CMYK"):
        assert read_header(file_of(gradient().convert(mode), "JPEG")).opened is not None


@pytest.mark.parametrize("decoder", [decoding.decode_jpeg, None], ids=["fast", "Pillow"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_the_decoded_image_whatever_it_is(
    mode: ColorMode, decoder: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoding, "decode_jpeg", decoder)
    gray, cmyk = gradient().convert("L"), gradient().convert("CMYK")
    files = [file_of(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP")]
    for stored in (*files, file_of(gray, "JPEG"), file_of(cmyk, "JPEG"), gradient()):
        expected = np.asarray(open_image(stored, mode)).reshape(48, 64, -1)
        assert np.array_equal(read_header(stored).pixels(mode), expected)


@pytest.mark.parametrize("damage", ["cut", "overwritten", "garbage before the end"])
def test_pillow_decides_about_damaged_jpegs(damage: str):
    stored = file_of(noise(320, 240), "JPEG")
    middle = len(stored) // 2
    damaged = {
        "cut": stored[:middle],
        "overwritten": stored[:middle] + bytes(200) + stored[middle + 200 :],
        "garbage before the end": stored[:-2] + b"\xff\x00\xff\xd0garbage" + stored[-2:],
    }[damage]
    try:
        expected = pixels(read_header(damaged).decode())
    except BadImageError:
        with pytest.raises(BadImageError, match="damaged"):
            read_header(damaged).pixels()
    else:
        assert np.array_equal(read_header(damaged).pixels(), expected)


def test_arrays_are_images_and_other_things_are_refused_by_what_they_are():
    pixels = np.asarray(gradient())
    assert np.array_equal(np.asarray(open_image(pixels)), pixels)
    assert open_image(pixels[..., 0]).mode == "RGB"
    with pytest.raises(BadImageError, match=r"array of float64 \(48, 64, 3\); it has to be uint8"):
        open_image(pixels / 255)
    with pytest.raises(BadImageError, match="is no image but a list"):
        open_image([gradient()])  # pyright: ignore[reportArgumentType]
