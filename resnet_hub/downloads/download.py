"""Files from the Hub, each compared with the sum that it declares; a damaged one is fetched again, once.

huggingface_hub fetches large files from the Hub's Xet store if `hf_xet` is installed and the Hub announces
one, else over plain HTTP. The sum is compared after either. tests/test_hub_xet.py tests plain HTTP in both
cases, a Xet store out of reach, and the folder of files that repositories share after downloads from Xet; no
bytes come from a real Xet store there.
"""

import hashlib
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from resnet_hub.downloads.access import (
    NotServedError,
    UnreachableError,
    asking,
    look_up,
    not_to_be_had,
    offline,
)
from resnet_hub.errors import HubError
from resnet_hub.files import expanded, write_atomically

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar", ".npz")
"""Endings of weight files that may run code when they are read; none is ever opened, and none is ever
sent."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_NAME = 200
_PATIENCE_WITH_A_COPY = 2.0  # seconds to wait for a busy Hub, two more tries, where the cache can answer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A repository at one commit, so that its files belong together."""

    repo_id: str
    commit: str
    name: str | None
    """The branch or tag that was asked for; None when it was the commit itself."""
    online: bool
    """Whether the Hub may be asked: it answered, or nobody tried yet."""
    refusal: str | None = None
    """What it answered instead, where the commit is the cache's because the Hub did not serve."""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A folder of the cache, and which of its files were checked: other programs fill the same folder."""

    folder: Path
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file of the cache whose bytes have the declared sum."""

    path: Path
    data: bytes


def pin(
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str = CONFIG_FILE,
    cache_dir: Path | None = None,
) -> Pinned:
    """The commit that a branch, tag or commit id stands for now; from the cache when the Hub does not serve.

    `filename` is a file that the repository has to have. Whether the Hub does not answer, is busy, fails or
    does not take the token makes no difference to who has a copy. That there is no such thing, or that it
    is gated, is an answer, and is believed.

    Raises:
        HubError: no such repository or revision, no access, or no Hub and nothing in the cache.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return Pinned(repo_id=repo_id, commit=revision, name=None, online=not offline())
    name = revision or constants.DEFAULT_REVISION
    cached = _commit_in_cache(repo_id, filename, revision=revision, cache_dir=cache_dir)
    patience = math.inf if cached is None else _PATIENCE_WITH_A_COPY
    try:
        found = look_up(repo_id, filename, revision=revision, patience=patience)
    except UnreachableError as error:
        if cached is None:
            raise not_to_be_had(repo_id, found=error.found) from None
        _log.warning("The Hub does not answer; %s is taken from the cache, at commit %s.", repo_id, cached)
        return Pinned(repo_id=repo_id, commit=cached, name=name, online=False)
    except NotServedError as error:
        if cached is None:
            raise
        _log.warning("%s %s is taken from the cache, at commit %s.", error, repo_id, cached)
        return Pinned(repo_id=repo_id, commit=cached, name=name, online=False, refusal=str(error))
    if found.commit_hash is None:
        raise HubError(
            f"What answered for {repo_id} is not a Hub: a proxy's page, perhaps. Check HF_ENDPOINT."
        )
    return Pinned(repo_id=repo_id, commit=found.commit_hash, name=name, online=True)


def fetch(pinned: Pinned, filename: str, *, cache_dir: Path | None = None) -> Fetched:
    """The file at that commit, from the cache or the Hub, with the bytes that were checked.

    Raises:
        HubError: the file is not there, or came damaged twice.
    """
    refuse_unsafe_name(filename, source=pinned.repo_id)
    for fresh in (False, True):
        path, declared = _locate(pinned, filename, cache_dir=cache_dir, fresh=fresh)
        data = path.read_bytes()
        if declared is None or sum_of(data, like=declared) == declared:
            return Fetched(path=path, data=data)
        _log.warning("%s of %s is damaged; it is thrown out of the cache.", filename, pinned.repo_id)
        _throw_out(path)
        if not pinned.online:
            raise HubError(
                f"{filename} of {pinned.repo_id} was damaged in the cache, was thrown out, and cannot be "
                f"fetched "
                "again without the Hub. Try again with a connection, and without HF_HUB_OFFLINE."
            )
    raise HubError(
        f"{filename} of {pinned.repo_id} came damaged twice: its bytes do not have the sum that the Hub "
        f"declares. "
        "Nothing of it was kept. A proxy or a mirror may be at fault; try another connection."
    )


def remember(pinned: Pinned, *, cache_dir: Path | None = None) -> None:
    """Note in the cache which commit the branch or tag stood for, once all files are there that were wanted.

    Files are fetched by commit, and without the note neither we nor timm would find them by name when
    offline.
    """
    if pinned.name is None or not pinned.online:
        return
    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=pinned.repo_id, repo_type="model"
    )
    note = folder / "refs" / pinned.name
    if not note.is_file() or note.read_text(encoding="utf-8") != pinned.commit:
        write_atomically(note, pinned.commit)


def download(repo_id: str, *, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """The folder in the cache with all files of a model repository but pickles, each one checked.

    What other programs have put into that folder of the cache, pickles too, is there as well, unchecked.
    """
    return download_files(repo_id, revision=revision, cache_dir=cache_dir).folder


def download_files(repo_id: str, *, revision: str | None = None, cache_dir: Path | None = None) -> Downloaded:
    """The files of a model repository but pickles, each one checked, and the folder of the cache they are in.

    Raises:
        HubError: no such repository or revision, no access, or a file cannot be had or came damaged twice.
    """
    cache_dir = cache_dir and expanded(cache_dir)
    pinned = pin(repo_id, revision=revision, cache_dir=cache_dir)
    paths: dict[str, Path] = {}
    for name in _names_in(pinned, revision=revision, cache_dir=cache_dir):
        if name.endswith(PICKLES):
            _log.warning("%s of %s is a pickle, which may run any code; it is left out.", name, repo_id)
        else:
            paths[name] = fetch(pinned, name, cache_dir=cache_dir).path
    remember(pinned, cache_dir=cache_dir)
    if not paths:
        raise HubError(f"{repo_id} has no files at {pinned.commit}.")
    name, path = next(iter(paths.items()))
    return Downloaded(folder=path.parents[name.count("/")], names=tuple(paths))


def refuse_unsafe_name(name: str, *, source: str) -> None:
    """HubError for a file name that could leave its folder, hide, or mean something to a system."""
    parts = re.split(r"[/\\]", name)
    bad = (
        not name
        or len(name) > _LONGEST_NAME
        or "\\" in name
        or any(part in ("", ".", "..") or part.endswith((" ", ".")) or ":" in part for part in parts)
        or not name.isprintable()
    )
    if bad:
        raise HubError(
            f"{source} has a file name that is not safe to write: {name[:80]!r}. Nothing was written."
        )


def sum_of(data: bytes, *, like: str) -> str:
    """sha256 of the bytes, or git's name of them, whichever `like` is by its length."""
    if len(like) == 64:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _names_in(pinned: Pinned, *, revision: str | None, cache_dir: Path | None) -> list[str]:
    """The names of the repository's files, as the Hub lists them; without it, of those that the cache has."""
    if pinned.online:
        return asking(
            lambda: HfApi().list_repo_files(pinned.repo_id, revision=pinned.commit),
            repo_id=pinned.repo_id,
            revision=revision,
        )
    folder = fetch(pinned, CONFIG_FILE, cache_dir=cache_dir).path.parent
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _commit_in_cache(
    repo_id: str, filename: str, *, revision: str | None, cache_dir: Path | None
) -> str | None:
    """The commit that the cache knows for the branch or tag, if it has the file at that commit."""
    try:
        cached = try_to_load_from_cache(repo_id, filename, revision=revision, cache_dir=cache_dir)
    except HFValidationError:  # no name of a repository, which is explained where the Hub is asked
        return None
    return Path(cached).parents[filename.count("/")].name if isinstance(cached, str) else None


def _locate(pinned: Pinned, filename: str, *, cache_dir: Path | None, fresh: bool) -> tuple[Path, str | None]:
    """The file in the cache, fetched if it has to be, and the sum that the Hub declares for it."""
    cached = try_to_load_from_cache(pinned.repo_id, filename, revision=pinned.commit, cache_dir=cache_dir)
    if isinstance(cached, str) and not fresh:
        return Path(cached), _sum_in_cache(Path(cached))
    if pinned.refusal is not None:
        raise HubError(
            f"{pinned.refusal} The cache has {pinned.repo_id} at {pinned.commit}, but not its {filename}."
        )
    if not pinned.online:
        reason = "HF_HUB_OFFLINE is set" if offline() else "it does not answer"
        raise not_to_be_had(pinned.repo_id, found=reason, filename=filename)
    # Asked here first, because huggingface_hub tries a dead Hub for 23 s where nothing is cached.
    try:
        found = look_up(pinned.repo_id, filename, revision=pinned.commit)
    except UnreachableError as error:
        raise not_to_be_had(pinned.repo_id, found=error.found, filename=filename) from None
    path = asking(
        lambda: hf_hub_download(
            pinned.repo_id, filename, revision=pinned.commit, cache_dir=cache_dir, force_download=fresh
        ),
        repo_id=pinned.repo_id,
    )
    return Path(path), _as_sum(found.etag)


def _sum_in_cache(path: Path) -> str | None:
    """The sum that the Hub declared when the file came: the cache keeps it as the name behind the link."""
    return _as_sum(path.readlink().name) if path.is_symlink() else None


def _as_sum(name: str | None) -> str | None:
    return name if name is not None and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _throw_out(path: Path) -> None:
    """Delete the file and every link on the way to its bytes, so that nobody is given them again."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink(missing_ok=True)
        path = target
    path.unlink(missing_ok=True)
