"""HTML documents that stand alone: style, script and pictures inside, and no way to a network."""

import base64
import hashlib
import io
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from resnet_hub.results import probability_text

_THUMBNAIL = 192  # pixels of the longer side
_SMALL = 64  # pixels; pictures up to here keep every pixel
_LONG_NAME = 24  # letters; longer names may break anywhere, so that a table of them fits a phone
_EFFORT = 2  # of WebP, 0 to 6: with 4, Pillow's own, files are 4 % smaller and take twice as long


def document(template: str, **values: Any) -> str:
    """A document from a template of the package; values are escaped.

    The page may run the one script that it comes with, by its hash, and nothing else: should a text from
    outside ever end up as markup, the browser still runs nothing and fetches nothing for it.
    """
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(script=Markup(script), style=_style(), policy=policy, **values)
    )


def fragment(template: str, **values: Any) -> str:
    """Markup for another document, such as a notebook, that brings its own style; values are escaped."""
    return _environment().get_template(template).render(style=_style(), **values)


def _style() -> Markup:
    """The rules of page.css, nested so that they apply inside an element of the class only."""
    return Markup(f".resnet-hub {{\n{_read('page.css')}}}")


class Picture(NamedTuple):
    """A picture inside a document."""

    uri: str
    width: int
    height: int


def embedded_picture(path: Path, *, width: int | None = None) -> Picture:
    """The picture of a file as WebP, made smaller if it is wider than `width`."""
    with Image.open(path) as image:
        size, data = image.size, path.read_bytes()
        if width is not None and image.width > width:
            size = (width, round(image.height * width / image.width))
        if size != image.size or path.suffix != ".webp":
            data = as_webp(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    return Picture(f"data:image/webp;base64,{base64.b64encode(data).decode()}", *size)


def save_thumbnail(image: Image.Image, path: Path) -> None:
    """Keep a small picture of an image for the page, which then needs no data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    path.write_bytes(as_webp(small))


def as_webp(image: Image.Image) -> bytes:
    """The image as the bytes of a small file; a very small image loses nothing."""
    file = io.BytesIO()
    image.convert("RGB").save(
        file, format="WEBP", quality=80, method=_EFFORT, lossless=max(image.size) <= _SMALL
    )
    return file.getvalue()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=2: f"{100 * share:.{digits}f} %"
    environment.filters["probability"] = probability_text
    environment.filters["wrapped"] = lambda text: Markup(' class="long"' * (len(text) > _LONG_NAME))
    environment.filters["whole"] = lambda number: f"{number:,}"
    return environment


@cache
def _read(name: str) -> str:
    return files("resnet_hub.finetuning.report").joinpath("templates", name).read_text("utf-8")
