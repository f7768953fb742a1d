"""Decode image files of any kind to plain RGB or gray pixels: safely, upright, and the same everywhere.

Training, evaluation, prediction and export all open images here, so an image looks the same to all of them.
Nothing is decoded before its header has been read and found harmless.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnet_hub.errors import UserError
from resnet_hub.files import expanded
from resnet_hub.images.limits import check_file_bytes, decoding, read_file

try:
    # Pillow's own decoder with nothing around it: the same pixels in two thirds of the time.
    from simplejpeg import decode_jpeg
except ImportError:
    decode_jpeg = None

ImageSource = (
    bytes | bytearray | memoryview | str | Path | Image.Image | Mapping[str, Any] | NDArray[np.uint8]
)
ColorMode = Literal["RGB", "L"]
Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000
"""Above it an image is refused from its header; decoded it would take 192 MB in every worker."""
MAX_ASPECT = 100
"""Longest side over shortest; resizing the short side of a thinner strip to 256 px would take gigabytes."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

# Formats whose decoders are meant for foreign files. Pillow can open some thirty more, among them EPS, which
# starts Ghostscript.
_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "ICO",
)  # fmt: skip

_JPEGS = ("JPEG", "MPO")  # an MPO begins with a whole JPEG, its first frame

# Markers of a JPEG (ITU-T T.81, table B.1) up to its size: frames that simplejpeg decodes, and what may stand
# before them in a file about which there is nothing to ask Pillow (tables, JFIF, comments, Adobe's colors).
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
_JPEG_PLAIN_SEGMENTS = (0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE)

# EXIF orientations (Exif 2.32, section 4.6.4, tag 0x0112): 1 is upright; from 5 on, the sides are swapped.
_ORIENTATIONS = range(1, 9)
_FIRST_SIDEWAYS = 5


class BadImageError(UserError):
    """An image that cannot or must not be decoded; the message says why in a few words."""


class DecodableImage(Protocol):
    """An image whose pixels are there when asked for: an `EncodedImage`, or one from a cache."""

    @property
    def width(self) -> int:
        """Width of the upright original, in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height of the upright original, in pixels."""
        ...

    def pixels(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Pixels:
        """Upright pixels, uint8 (height, width, channels), perhaps of a smaller version of the image."""
        ...

    def decode(self, mode: ColorMode = "RGB") -> Image.Image:
        """The same as a PIL image."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image whose header was read and found harmless; its pixels are not decoded yet.

    `width` and `height` are those of the upright image, whatever its EXIF orientation. One object is decoded
    once: decoding reads the file to its end.
    """

    width: int
    height: int
    orientation: int
    """EXIF orientation that decoding still has to undo; 1 is upright."""
    data: bytes
    """The encoded bytes; empty if it was opened from a PIL image."""
    opened: Image.Image | None
    """As Pillow opened it; None for a JPEG whose few header bytes said enough."""

    @cached_property
    def file(self) -> Image.Image:
        """The image as Pillow opens it."""
        return _open_file(self.data) if self.opened is None else self.opened

    @property
    def _is_rgb_jpeg(self) -> bool:
        if self.opened is None:
            return True
        return self.opened.mode == "RGB" and self.opened.format in _JPEGS and bool(self.data)

    def pixels(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Pixels:
        """What `decode` gives, as uint8 (height, width, channels); of a usual JPEG it is faster."""
        if mode == "RGB" and self._is_rgb_jpeg:
            with decoding(self.width, self.height):
                pixels = self._decode_jpeg(at_least)
            if pixels is not None:
                return pixels
        pixels = np.array(self.decode(mode, at_least=at_least))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def _decode_jpeg(self, at_least: tuple[int, int] | None) -> Pixels | None:
        """Upright pixels of a JPEG; None leaves unusual files to Pillow."""
        if decode_jpeg is None:
            return None
        reduction = 1
        if at_least is not None:  # the same choice as Pillow's draft mode
            times = min(self.width // at_least[0], self.height // at_least[1])
            reduction = next(factor for factor in (8, 4, 2, 1) if times >= factor or factor == 1)
        width, height = self.width, self.height
        if self.orientation >= _FIRST_SIDEWAYS:
            width, height = height, width
        try:
            pixels: Pixels = decode_jpeg(
                self.data, "RGB", min_height=-(-height // reduction), min_width=-(-width // reduction)
            )
        except Exception:  # damaged in part, or of a kind that only Pillow reads
            return None
        return _turn_upright(pixels, self.orientation)

    def decode(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Upright pixels in `mode`; BadImageError if the data is broken.

        Args:
            mode: "RGB", or "L" for models with one input channel.
            at_least: (width, height) that is enough. JPEGs are then decoded at 1/2, 1/4 or 1/8 of their size,
                whichever is the smallest that still has it, which is several times faster. The result is
                therefore somewhere between this and the full size.
        """
        try:
            with decoding(self.width, self.height):
                return self._decode(mode, at_least)
        except BadImageError:
            raise
        except Exception as error:  # decoders of foreign bytes raise all sorts
            raise BadImageError(_reason(error)) from error

    def _decode(self, mode: ColorMode, at_least: tuple[int, int] | None) -> Image.Image:
        if at_least is not None:
            width, height = at_least
            sideways = self.orientation >= _FIRST_SIDEWAYS
            self.file.draft(None, (height, width) if sideways else (width, height))
        self.file.load()
        upright = self.file if self.orientation == 1 else ImageOps.exif_transpose(self.file)
        return _as_mode(upright, mode)


def read_header(source: ImageSource) -> EncodedImage:
    """The image behind `source`, checked but not yet decoded; BadImageError says what is wrong with it.

    Args:
        source: Encoded bytes, a path, a PIL image, a uint8 array (height, width) or (height, width, 3), or a
            row of `datasets`: a mapping with `bytes` or `path`.
    """
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    data = b"" if isinstance(source, Image.Image) else _encoded_bytes(source)
    size, opened = _plain_jpeg_size(data), None
    if size is None:
        opened = source if isinstance(source, Image.Image) else _open_file(data)
        size = opened.size
    width, height = size
    if min(width, height) < 1:
        raise BadImageError(f"has no pixels: {width}x{height}")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"too large: {width}x{height} pixels, the limit is {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImageError(f"too thin: {width}x{height}, the limit is {MAX_ASPECT}:1")
    orientation = 1 if opened is None else _orientation(opened)
    if orientation >= _FIRST_SIDEWAYS:
        width, height = height, width
    return EncodedImage(width=width, height=height, orientation=orientation, data=data, opened=opened)


def open_image(
    source: ImageSource, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """The upright image in `mode`, from any source that `read_header` takes.

    EXIF orientation is applied; transparent pixels are laid on white; 16-bit images are scaled to 8 bits and
    not cut off; animations give their first frame. Raises BadImageError if it cannot be decoded.
    """
    return read_header(source).decode(mode, at_least=at_least)


@cache
def known_formats() -> tuple[str, ...]:
    """The formats that are opened: the safe ones that this build of Pillow has, and HEIF with pillow-heif."""
    Image.init()
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()  # no extra brings it
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def color_mode(num_channels: int) -> ColorMode:
    """The PIL mode for a model's number of input channels: 3 or 1."""
    modes: dict[int, ColorMode] = {1: "L", 3: "RGB"}
    if num_channels not in modes:
        raise UserError(
            f"The model takes {num_channels} input channels; images are read with 3 (color) or 1 (gray). "
            "Create the model with in_chans=3 or in_chans=1."
        )
    return modes[num_channels]


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an upright color JPEG of 8 bits; None leaves all others to Pillow.

    Opening such a file with Pillow takes a sixth of the time of decoding it at 500x375.
    """
    if decode_jpeg is None or data[:3] != b"\xff\xd8\xff":
        return None
    place = 2
    while len(data) > place + 9 and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _JPEG_FRAMES:
            has_three_channels = data[place + 4] == 8 and data[place + 9] == 3
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return (int.from_bytes(width), int.from_bytes(height)) if has_three_channels else None
        if marker not in _JPEG_PLAIN_SEGMENTS:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def _open_file(data: bytes) -> Image.Image:
    if not data:
        raise BadImageError("is empty: zero bytes")
    try:
        return Image.open(io.BytesIO(data), formats=known_formats())
    except UnidentifiedImageError as error:
        raise BadImageError(_what_it_is(data)) from error
    except Exception as error:  # decoders of foreign bytes raise all sorts
        raise BadImageError(_reason(error)) from error


def _encoded_bytes(source: bytes | bytearray | memoryview | str | Path | Mapping[str, Any] | None) -> bytes:
    if isinstance(source, Mapping):
        row: Mapping[str, Any] = source
        return _encoded_bytes(row["bytes"] if row.get("bytes") is not None else row.get("path"))
    if source is None:
        raise BadImageError("is missing: None")
    if isinstance(source, str | Path):
        try:
            return read_file(expanded(source))
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}: {source}") from error
        except ValueError as error:  # too large, or a name with a NUL
            raise BadImageError(f"{error}: {source}") from error
    if not isinstance(source, bytes | bytearray | memoryview):
        raise BadImageError(
            f"is no image but a {type(source).__name__}; give a path, the bytes of a file, a PIL image or a "
            "uint8 array (height, width, 3)"
        )
    try:
        check_file_bytes(memoryview(source).nbytes)
    except ValueError as error:
        raise BadImageError(str(error)) from error
    return bytes(source)


def _of_array(pixels: Pixels) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise BadImageError(
            f"is an array of {pixels.dtype} {pixels.shape}; it has to be uint8 (height, width, 3), or "
            "(height, width) for gray"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _orientation(file: Image.Image) -> int:
    if file.format == "TIFF":  # Pillow turns these itself, and their size is upright already
        return 1
    if file.format in _JPEGS and not file.info.keys() & {"exif", "xmp"}:
        return 1  # looking for it takes longer than the rest of the header
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block is no reason to refuse an image; it is then taken as upright
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """A view of pixels (height, width, ...) that undoes an EXIF orientation."""
    if orientation >= _FIRST_SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _as_mode(image: Image.Image, mode: ColorMode) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image.alpha_composite(rgba)
    if image.mode in ("LAB", "HSV"):  # these convert to RGB only
        image = image.convert("RGB")
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits per pixel scaled to 8; Pillow's own conversion cuts off at 255.

    The scale follows from the type of the image and never from how bright it is, so that equal values stay
    equal over a data set: 16 bits hold 0..65535, floating point holds 0..1. Wider ranges say nothing about
    their scale and are refused, but for values that are within 0..255 already.
    """
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImageError("holds values that are not finite")
    if image.mode.startswith("I;16"):
        scale = 255 / 65535
    elif low >= 0 and high <= 1 and image.mode == "F":
        scale = 255.0
    elif low >= 0 and high <= 255:
        scale = 1.0
    elif low >= 0 and high <= 65535 and image.mode == "I":
        scale = 255 / 65535
    else:
        raise BadImageError(
            f"holds values from {low:g} to {high:g} in mode {image.mode}, whose scale is unknown; "
            "convert it to 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def _what_it_is(data: bytes) -> str:
    """Why Pillow does not know the file, as far as its first bytes tell."""
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "is not an image: it holds HTML, XML or SVG text"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        return "is a HEIC image, which needs a package more: pip install pillow-heif, or convert it to JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs and not the image; run git lfs pull"
    return f"is not an image of a known format; it begins with {data[:8]!r}"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {error}"
    return f"is damaged: {error}" if str(error) else f"is damaged: {type(error).__name__}"
