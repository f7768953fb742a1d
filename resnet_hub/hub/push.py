"""Publishing: one commit, read back from the Hub and compared before anybody is told that it is done."""

import logging
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from resnet_hub.downloads.access import asking, offline, redact
from resnet_hub.downloads.download import CONFIG_FILE, PICKLES, WEIGHTS_FILE, refuse_unsafe_name
from resnet_hub.errors import HubError
from resnet_hub.files import expanded
from resnet_hub.hub.commit import PushRequest, make_commit, read_back, refuse_taken_tag, staged_files
from resnet_hub.hub.loading import check_files
from resnet_hub.models.names import local_folder

_OUR_HIDDEN = (".resnet_hub/", ".eval_results/", ".gitattributes")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")

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
        tag: name for the commit; if it exists, it has to stand for a commit that holds exactly this already.
        message: first line of the commit.

    Raises:
        HubError: the folder is not whole or holds what must not be published, the Hub refuses, or what it
            gives back is not what was sent. The message ends with the command that repeats the push.
    """
    folder = _checked_folder(folder, repo_id)
    files = _files_to_send(folder)
    with tempfile.TemporaryDirectory(prefix="resnet_hub-push-") as scratch:
        request = PushRequest(
            folder=folder,
            repo_id=repo_id,
            branch=revision or constants.DEFAULT_REVISION,
            create_pr=create_pr,
            tag=tag,
            private=private,
            message=message or "Publish the model with resnet_hub",
            staged=Path(scratch),
        )
        try:
            return _push(request, files)
        except HubError as error:
            raise HubError(
                f"{redact(str(error))} Nothing of {folder} was lost. To repeat only the push: "
                f"{_command(request)}"
            ) from None


def is_on_hub(repo_id: str) -> bool:
    """Whether there is such a repository, public or private, that the token can see."""
    api = HfApi()
    return asking(lambda: _info_or_none(api, _full_name(api, repo_id)), repo_id=repo_id) is not None


def may_be_public(repo_id: str, *, ask: Callable[[str], str]) -> bool:
    """Whether the repository is there already, or the person says that a new one may be public."""
    if is_on_hub(repo_id):
        return True
    answer = ask(f"{repo_id} is not on the Hub yet and will be public. Publish it? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _push(request: PushRequest, files: dict[str, Path]) -> PushRecord:
    api = HfApi()
    for name, path in files.items():
        (request.staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, request.staged / name)
    request = _with_repository(api, request)
    sent = make_commit(api, request)
    read_back(request, sent)
    if request.tag is not None:
        _set_tag(api, request, commit=sent.commit)
    return PushRecord(
        repo_id=request.repo_id,
        url=f"{api.endpoint}/{request.repo_id}/tree/{sent.commit}",
        commit=sent.commit,
        pull_request=sent.pull_request,
        files=tuple(staged_files(request)),
    )


def _checked_folder(folder: Path | str, repo_id: str) -> Path:
    """The model folder, after everything that can be refused without the Hub was looked at."""
    found = local_folder(folder)
    if found is None:
        raise HubError(f"There is no folder {expanded(folder)}.")
    check_files(found / CONFIG_FILE, found / WEIGHTS_FILE, source=str(found))
    if offline():
        raise HubError("HF_HUB_OFFLINE is set, and nothing can be published without a connection. Unset it.")
    if get_token() is None:
        raise HubError(
            f"No token is set, and the Hub takes nothing without one. `hf auth login`, or set HF_TOKEN, "
            f"then: resnet-hub push {shlex.quote(str(found))} {shlex.quote(repo_id)}"
        )
    return found


def _files_to_send(folder: Path) -> dict[str, Path]:
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


def _with_repository(api: HfApi, request: PushRequest) -> PushRequest:
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
    request = replace(request, repo_id=repo_id)
    if there is not None and request.tag is not None:
        refuse_taken_tag(api, request)  # before the branch is made
    if request.branch != constants.DEFAULT_REVISION and not request.branch.startswith("refs/pr/"):
        asking(lambda: api.create_branch(repo_id, branch=request.branch, exist_ok=True), repo_id=repo_id)
    return request


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


def _set_tag(api: HfApi, request: PushRequest, *, commit: str) -> None:
    tag = str(request.tag)
    asking(
        lambda: api.create_tag(request.repo_id, tag=tag, revision=commit, exist_ok=True),
        repo_id=request.repo_id,
    )
    refs = asking(lambda: api.list_repo_refs(request.repo_id), repo_id=request.repo_id)
    target = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
    if target != commit:
        raise HubError(f"The commit {commit} is published, but the tag {tag!r} stands for {target}.")


def _command(request: PushRequest) -> str:
    words = ["resnet-hub", "push", str(request.folder), request.repo_id]
    words += ["--private"] if request.private else []
    words += ["--revision", request.branch] if request.branch != constants.DEFAULT_REVISION else []
    words += ["--create_pr"] if request.create_pr else []
    words += ["--tag", request.tag] if request.tag is not None else []
    return shlex.join(words)
