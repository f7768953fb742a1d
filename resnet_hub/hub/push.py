"""Publishing: one commit, read back from the Hub and compared before anybody is told that it is done."""

import hashlib
import logging
import re
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from resnet_hub.errors import HubError
from resnet_hub.hub.access import asking, explained, may_pass, offline, redact
from resnet_hub.hub.card_edits import with_edits
from resnet_hub.hub.config_file import CONFIG_FILE
from resnet_hub.hub.download import Pinned, fetch, refuse_unsafe_name, sum_of
from resnet_hub.hub.export import CARD_BASE_FILE, CARD_FILE, answers, generated_card, with_own_edits
from resnet_hub.hub.loading import load_files, local_folder
from resnet_hub.hub.weights import PICKLES, WEIGHTS_FILE

_OUR_HIDDEN = (".resnet_hub/", ".eval_results/", ".gitattributes")
_MADE_BY_US = re.compile(r"figures/\d\d-[A-Za-z0-9-]+\.(png|jpg|jpeg)|\.eval_results/[a-z0-9.-]+\.yaml")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
_WAITS = (0.5, 2.0, 8.0)  # seconds before each further try

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PushRecord:
    """Where a model was published; given only after it was read back from there."""

    repo_id: str
    url: str
    """Address of the repository at the commit."""
    commit: str
    pull_request: str | None
    """Address of the pull request, if one was asked for."""
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is to be pushed where, with the content of the files that are made for this push."""

    folder: Path
    repo_id: str
    branch: str
    create_pr: bool
    tag: str | None
    private: bool
    message: str
    paths: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class _Sent:
    commit: str
    pull_request: str | None
    contents: Mapping[str, Path | bytes]


def push_folder(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    message: str | None = None,
) -> PushRecord:
    """Publish a model folder as one commit, read it back, compare, and give its address.

    The folder stays as it is. Edits of the card, in the folder or on the Hub, are kept. Pushing the same
    folder again makes no further commit, so a push that failed can always be repeated.

    Args:
        folder: a folder of save_folder, or a run's.
        repo_id: `owner/name`; a name alone means the owner of the token. It is created if it is not there.
        private: create it as a private one.
        revision: branch to push to; it is made from main if it is not there.
        create_pr: open a pull request instead of pushing to the branch.
        tag: name for the commit; one that exists already has to mean this very commit.
        message: first line of the commit.

    Raises:
        HubError: the folder is not whole or holds what must not be published, the Hub refuses, or what it
            gives back is not what was sent. The message ends with the command that repeats the push.
    """
    request = _checked_request(
        folder, repo_id, private=private, revision=revision, create_pr=create_pr, tag=tag, message=message
    )
    try:
        return _push(request)
    except HubError as error:
        raise HubError(
            f"{redact(str(error))} Nothing of {request.folder} was lost. To repeat only the push: "
            f"{_command(request)}"
        ) from None


def is_published(repo_id: str) -> bool:
    """Whether the Hub has such a repository that we can see."""
    api = HfApi()
    return asking(lambda: _info_or_none(api, _full_name(api, repo_id)), repo_id=repo_id) is not None


def _push(request: _Request) -> PushRecord:
    api = HfApi()
    request = _with_repository(api, request)
    sent = _commit(api, request)
    _read_back(request, sent)
    if request.tag is not None:
        _set_tag(api, request, commit=sent.commit)
    return PushRecord(
        repo_id=request.repo_id,
        url=f"{api.endpoint}/{request.repo_id}/tree/{sent.commit}",
        commit=sent.commit,
        pull_request=sent.pull_request,
        files=tuple(sorted(sent.contents)),
    )


def _checked_request(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool,
    revision: str | None,
    create_pr: bool,
    tag: str | None,
    message: str | None,
) -> _Request:
    """The request, after everything that can be refused without the Hub was looked at."""
    found = local_folder(folder)
    if found is None:
        raise HubError(f"There is no folder {folder}.")
    load_files(found / CONFIG_FILE, found / WEIGHTS_FILE, source=str(found))
    if offline():
        raise HubError("HF_HUB_OFFLINE is set, and nothing can be published without a connection. Unset it.")
    if get_token() is None:
        raise HubError(
            f"No token is set, and the Hub takes nothing without one. `hf auth login`, or set HF_TOKEN, "
            f"then: "
            f"resnet-hub push {shlex.quote(str(found))} {shlex.quote(repo_id)}"
        )
    return _Request(
        folder=found,
        repo_id=repo_id,
        branch=revision or "main",
        create_pr=create_pr,
        tag=tag,
        private=private,
        message=message or "Publish the model with resnet_hub",
        paths=_paths_to_send(found),
    )


def _paths_to_send(folder: Path) -> dict[str, Path]:
    """Name in the repository -> file; HubError for one that must not be published."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/")) and not name.startswith(_OUR_HIDDEN)
        if path.is_symlink() or (path.is_file() and path.suffix in PICKLES):
            _log.warning("%s is left out: links and pickles are not published.", path)
        elif path.is_file() and not hidden:
            refuse_unsafe_name(name, source=str(folder))
            if path.suffix != ".safetensors" and _TOKEN.search(path.read_bytes()):
                raise HubError(f"{path} holds what looks like a token of the Hub. Take it out first.")
            paths[name] = path
    return paths


def _with_repository(api: HfApi, request: _Request) -> _Request:
    """The request with the full name of a repository, and a branch, that are there now."""
    repo_id = asking(lambda: _full_name(api, request.repo_id), repo_id=request.repo_id)
    there = asking(lambda: _info_or_none(api, repo_id), repo_id=repo_id)
    if there is not None and request.private and not there.private:
        raise HubError(
            f"{repo_id} exists and is public, and a private one was asked for. Nothing was sent. Leave "
            f"--private out, "
            "or make it private in its settings first."
        )
    if there is None:  # exist_ok, because the answer may be lost after the repository was made
        asking(lambda: api.create_repo(repo_id, private=request.private, exist_ok=True), repo_id=repo_id)
    if request.branch != constants.DEFAULT_REVISION and not request.branch.startswith("refs/pr/"):
        asking(lambda: api.create_branch(repo_id, branch=request.branch, exist_ok=True), repo_id=repo_id)
    if request.tag is not None:
        _refuse_taken_tag(api, repo_id, tag=request.tag, branch=request.branch)
    return replace(request, repo_id=repo_id)


def _full_name(api: HfApi, repo_id: str) -> str:
    """The name with its owner; a name alone belongs to the owner of the token."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def _info_or_none(api: HfApi, repo_id: str) -> ModelInfo | None:
    try:
        return api.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _commit(api: HfApi, request: _Request) -> _Sent:
    """Make the commit, once: after an error the Hub is asked whether it was made all the same."""
    for wait in (*_WAITS, None):
        head, remote = _head(api, request)
        contents = _contents(request, commit=head, remote=remote)
        if request.create_pr and (found := _pull_request_with(api, request, contents)) is not None:
            return found
        try:
            info = api.create_commit(
                request.repo_id,
                [*_additions(contents), *_deletions(contents, remote)],
                commit_message=request.message,
                revision=request.branch,
                create_pr=request.create_pr,
                parent_commit=head,
            )
            return _Sent(commit=info.oid, pull_request=info.pr_url, contents=contents)
        except Exception as error:
            if (made := _made_all_the_same(api, request, contents, head=head)) is not None:
                _log.warning("%s: the Hub failed after it had made the commit.", request.repo_id)
                return made
            if wait is None or not may_pass(error):
                raise _refused_commit(error, request) from None
            _log.warning("%s: %s; again in %.0f s", request.repo_id, type(error).__name__, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _head(api: HfApi, request: _Request) -> tuple[str, list[str]]:
    """The commit that the branch stands for, and the names of its files."""

    def look() -> tuple[str, list[str]]:
        info = api.model_info(request.repo_id, revision=request.branch)
        return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]

    return asking(look, repo_id=request.repo_id)


def _contents(request: _Request, *, commit: str, remote: list[str]) -> dict[str, Path | bytes]:
    """What each file of the commit holds: the folder's files, and the card with everybody's edits."""
    fresh = generated_card(request.folder, repo_id=request.repo_id)
    card = with_own_edits(fresh, folder=request.folder)
    if CARD_FILE in remote:
        pinned = Pinned(repo_id=request.repo_id, commit=commit, name=None, online=True)
        with tempfile.TemporaryDirectory() as scratch:
            there = {
                name: fetch(pinned, name, cache_dir=Path(scratch)).data.decode("utf-8", errors="replace")
                for name in (CARD_FILE, CARD_BASE_FILE)
                if name in remote
            }
        card = with_edits(
            card, edited=there[CARD_FILE], generated=there.get(CARD_BASE_FILE), source=request.repo_id
        )
    return {**request.paths, CARD_FILE: card.encode(), CARD_BASE_FILE: fresh.encode()}


def _additions(contents: Mapping[str, Path | bytes]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=held) for name, held in contents.items()]


def _deletions(contents: Mapping[str, Path | bytes], remote: list[str]) -> list[CommitOperationDelete]:
    """Figures and scores of an earlier push that this one no longer has; nothing that others put there."""
    stale = [name for name in remote if name not in contents and _MADE_BY_US.fullmatch(name)]
    return [CommitOperationDelete(path_in_repo=name) for name in stale]


def _made_all_the_same(
    api: HfApi, request: _Request, contents: Mapping[str, Path | bytes], *, head: str
) -> _Sent | None:
    """The commit that holds all that was sent, if the Hub has it in spite of its answer."""
    try:
        if request.create_pr:
            return _pull_request_with(api, request, contents)
        now = str(api.model_info(request.repo_id, revision=request.branch).sha)
        if now != head and _holds(api, request.repo_id, now, contents):
            return _Sent(commit=now, pull_request=None, contents=contents)
    except Exception as error:  # it does not answer this either; the caller tries again
        _log.info("%s: %s", request.repo_id, type(error).__name__)
    return None


def _pull_request_with(api: HfApi, request: _Request, contents: Mapping[str, Path | bytes]) -> _Sent | None:
    """The newest pull request, if it holds exactly this: an earlier try may have opened it."""
    refs = asking(
        lambda: api.list_repo_refs(request.repo_id, include_pull_requests=True), repo_id=request.repo_id
    )
    pulls = {int(ref.ref.rsplit("/", 1)[-1]): ref for ref in refs.pull_requests or []}
    if not pulls or not _holds(api, request.repo_id, pulls[max(pulls)].target_commit, contents):
        return None
    url = f"{api.endpoint}/{request.repo_id}/discussions/{max(pulls)}"
    return _Sent(commit=pulls[max(pulls)].target_commit, pull_request=url, contents=contents)


def _holds(api: HfApi, repo_id: str, commit: str, contents: Mapping[str, Path | bytes]) -> bool:
    """Whether the commit has every file with the very content."""
    entries = {
        entry.path: entry
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=commit)
        if isinstance(entry, RepoFile)
    }
    for name, held in contents.items():
        entry = entries.get(name)
        if entry is None:
            return False
        declared = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        if sum_of(_bytes(held), like=declared) != declared:
            return False
    return True


def _read_back(request: _Request, sent: _Sent) -> None:
    """Fetch the commit as a stranger would, and compare every byte and the answers of the model."""
    pinned = Pinned(repo_id=request.repo_id, commit=sent.commit, name=None, online=True)
    with tempfile.TemporaryDirectory(prefix="resnet_hub-read-back-") as scratch:
        for name, held in sent.contents.items():
            there = fetch(pinned, name, cache_dir=Path(scratch))
            if there.data != _bytes(held):
                raise HubError(
                    f"{name} of {request.repo_id} at {sent.commit} is not what was sent: the Hub gives "
                    f"{hashlib.sha256(there.data).hexdigest()} for "
                    f"{hashlib.sha256(_bytes(held)).hexdigest()}."
                )
        snapshot = fetch(pinned, CONFIG_FILE, cache_dir=Path(scratch)).path.parent
        published = load_files(snapshot / CONFIG_FILE, snapshot / WEIGHTS_FILE, source=request.repo_id)
        folder = request.folder
        local = load_files(folder / CONFIG_FILE, folder / WEIGHTS_FILE, source=str(folder))
        if not torch.equal(answers(local), answers(published)):
            raise HubError(f"{request.repo_id} at {sent.commit} does not answer as the folder's model does.")


def _set_tag(api: HfApi, request: _Request, *, commit: str) -> None:
    tag = str(request.tag)
    asking(
        lambda: api.create_tag(request.repo_id, tag=tag, revision=commit, exist_ok=True),
        repo_id=request.repo_id,
    )
    target = _tags(api, request.repo_id).get(tag)
    if target != commit:
        raise HubError(f"The commit {commit} is published, but the tag {tag!r} stands for {target}.")


def _refuse_taken_tag(api: HfApi, repo_id: str, *, tag: str, branch: str) -> None:
    target = _tags(api, repo_id).get(tag)
    head = asking(lambda: api.model_info(repo_id, revision=branch).sha, repo_id=repo_id)
    if target is not None and target != head:
        raise HubError(
            f"{repo_id} has the tag {tag!r} already, for the commit {target}. Tags are not moved: take "
            f"another name."
        )


def _tags(api: HfApi, repo_id: str) -> dict[str, str]:
    refs = asking(lambda: api.list_repo_refs(repo_id), repo_id=repo_id)
    return {ref.name: ref.target_commit for ref in refs.tags}


def _refused_commit(error: Exception, request: _Request) -> HubError:
    if isinstance(error, ValueError) and "metadata" in str(error):
        return HubError(f"The Hub refuses the card: {redact(' '.join(str(error).split()))[:300]}")
    if isinstance(error, HubError):
        return error
    return explained(error, repo_id=request.repo_id, revision=None if request.create_pr else request.branch)


def _bytes(held: Path | bytes) -> bytes:
    return held if isinstance(held, bytes) else held.read_bytes()


def _command(request: _Request) -> str:
    words = ["resnet-hub", "push", str(request.folder), request.repo_id]
    words += ["--private"] if request.private else []
    words += ["--revision", request.branch] if request.branch != constants.DEFAULT_REVISION else []
    words += ["--create_pr"] if request.create_pr else []
    words += ["--tag", request.tag] if request.tag is not None else []
    return shlex.join(words)
