"""Find images: files, folders, patterns and URLs become a list of images that are read when needed."""

import glob
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from resnet_hub.errors import DataError, nearest
from resnet_hub.files import expanded
from resnet_hub.images.decoding import BadImageError
from resnet_hub.images.folders import SUFFIXES, images_below, known_name
from resnet_hub.images.limits import read_file

MAX_DOWNLOAD_BYTES = 64 * 2**20
DOWNLOAD_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_SCHEMES = ("http", "https")


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """An image by name; `read` fetches its bytes."""

    name: str
    """As typed, or the path within a typed folder."""

    def read(self) -> bytes:
        """The encoded bytes; raises BadImageError."""
        if is_url(self.name):
            return _download(self.name)
        try:
            return read_file(self.name)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # too large, or a name with a NUL
            raise BadImageError(str(error)) from error


def find_images(sources: Iterable[str], *, allow_urls: bool = False) -> list[ImageInput]:
    """Images of files, whole folders, patterns and URLs; those of a folder are sorted, and none occurs twice.

    Args:
        sources: Files, folders, patterns such as `photos/**/*.jpg`, and URLs.
        allow_urls: Whether URLs may be fetched; only http and https.

    Raises:
        DataError: A source matches nothing, is no UTF-8, or is a URL that may not be fetched.
    """
    found: dict[str, None] = {}
    for source in sources:
        found |= dict.fromkeys([source] if is_url(source) else _local(source))
        if is_url(source):
            _check_url(source, allow_urls=allow_urls)
    return [ImageInput(name=known_name(name)) for name in found]


def is_url(text: str) -> bool:
    """Whether it is a URL and not a path."""
    return "://" in text


def _local(source: str) -> list[str]:
    path = expanded(source)
    if path.is_dir():
        names = images_below(path)
        if not names:
            raise DataError(
                f"The folder {source} holds no images (looked for {', '.join(sorted(SUFFIXES))})."
            )
        return names
    if path.exists():
        return [str(path)]
    if glob.has_magic(source):
        names = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207  any pattern, absolute ones too
        if names:
            return names
        raise DataError(f"No file matches {source!r}.")
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    hint = f" In {parent}: {nearest(path.name, siblings)}" if siblings else ""
    raise DataError(f"There is no file or folder {source}.{hint}")


def _check_url(url: str, *, allow_urls: bool) -> None:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise DataError(f"{url} cannot be fetched: only http and https can, not {scheme}.")
    if not allow_urls:
        raise DataError(f"{url} is a URL. Add --allow_urls to fetch it.")


def _web_only() -> urllib.request.OpenerDirector:
    """An opener for http and https alone, so that no redirection leads to local files or FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _download(url: str) -> bytes:
    """The bytes at a URL, within MAX_DOWNLOAD_BYTES and DOWNLOAD_SECONDS."""
    until = time.monotonic() + DOWNLOAD_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "resnet_hub", "Accept": "image/*"})
    try:
        with _web_only().open(request, timeout=_ANSWER_SECONDS) as answer:
            parts, size = [], 0
            while part := answer.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > MAX_DOWNLOAD_BYTES:
                    raise BadImageError(f"is larger than {MAX_DOWNLOAD_BYTES >> 20} MiB")
                if time.monotonic() > until:
                    raise BadImageError(f"took longer than {DOWNLOAD_SECONDS:.0f} s to fetch")
            return b"".join(parts)
    except urllib.error.HTTPError as error:
        raise BadImageError(f"cannot be fetched: {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BadImageError(f"cannot be fetched: {reason}") from error
