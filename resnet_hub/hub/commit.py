"""One commit on the Hub with all that a push sends: made once, whatever the Hub answers.

An answer can be lost after the commit was made, and a blind retry would then commit twice, or open a second
pull request. So after each error the Hub is asked what it holds. Somebody else can commit in between: each
try reads the branch again, merges the card again, and names the commit that it builds on, which the Hub
refuses (412) once it is no longer the newest.

Large files go to the Hub's Xet store where `hf_xet` is installed, as huggingface_hub does it, and over plain
HTTP where that fails: mirrors and proxies often let only the Hub itself through. An upload into a Xet store
is not tested; it is too much for a server on loopback.
"""

import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from resnet_hub.cards.edits import with_edits
from resnet_hub.downloads.access import asking, explained, may_pass, redact, status_of
from resnet_hub.downloads.download import Pinned, fetch, sum_of
from resnet_hub.errors import HubError
from resnet_hub.hub.saving import CARD_BASE_FILE, CARD_FILE, generated_card, with_own_edits

PUSHED_FILE = ".resnet_hub/pushed.json"
"""The figures and scores that a push sent, with their sums, so that the next one knows which are its own."""

_COMES_AND_GOES = re.compile(
    r"figures/\d\d-[A-Za-z0-9-]+\.(png|jpg|jpeg)|\.eval_results/[a-z0-9.-]+\.yaml"
)  # what one push may send and the next may not, so that it would be left behind
_WAITS = (0.5, 2.0, 8.0)  # seconds before each further try

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PushRequest:
    """What is to be pushed where."""

    folder: Path
    repo_id: str
    branch: str
    create_pr: bool
    tag: str | None
    private: bool
    message: str
    staged: Path
    """A folder with exactly what the commit has to hold; the card in it is written by `make_commit`."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The commit to build on, and which files of an earlier push it takes away; what it adds is staged."""

    head: str
    stale: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A commit that the Hub has."""

    commit: str
    pull_request: str | None


def make_commit(api: HfApi, request: PushRequest) -> Sent:
    """Make the commit, once: after an error the Hub is asked whether it was made all the same."""
    plainly = False
    for wait in (*_WAITS, None):
        plan = _plan(api, request)
        if request.create_pr and (found := _pull_request_with(api, request)) is not None:
            return found
        try:
            return _send(api, request, plan, plainly=plainly)
        except Exception as error:
            if (made := _made_all_the_same(api, request, plan)) is not None:
                _log.warning("%s: the Hub failed after it had made the commit.", request.repo_id)
                return made
            failed_in_xet = not (plainly or constants.HF_HUB_DISABLE_XET) and status_of(error) is None
            if wait is None or not (failed_in_xet or may_pass(error)):
                raise _refused_commit(error, request) from None
            plainly = plainly or failed_in_xet
            seconds = 0.0 if failed_in_xet else wait
            _log.warning("%s: %s; again in %.1f s", request.repo_id, type(error).__name__, seconds)
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _send(api: HfApi, request: PushRequest, plan: _Plan, *, plainly: bool) -> Sent:
    with ExitStack() as files:
        # Not upload_folder: huggingface_hub sends open files over plain HTTP, and paths to Xet where it can.
        additions = [
            CommitOperationAdd(
                path_in_repo=name,
                path_or_fileobj=files.enter_context(path.open("rb")) if plainly else path,
            )
            for name, path in staged_files(request).items()
        ]
        deletions = [CommitOperationDelete(path_in_repo=name) for name in plan.stale]
        info = api.create_commit(
            request.repo_id,
            [*additions, *deletions],
            commit_message=request.message,
            revision=request.branch,
            create_pr=request.create_pr,
            parent_commit=plan.head,
        )
    return Sent(commit=info.oid, pull_request=info.pr_url)


def _plan(api: HfApi, request: PushRequest) -> _Plan:
    """What has to change for the branch, as it is now, to hold the folder; the card is staged for it."""
    head, remote = _head(api, request)
    there = _texts_there(request, commit=head, remote=remote)
    _stage_texts(request, there=there)
    sent = staged_files(request)
    gone = [name for name in remote if name not in sent and _COMES_AND_GOES.fullmatch(name)]
    stale = _ours(api, request.repo_id, gone, commit=head, record=there.get(PUSHED_FILE, "{}"))
    return _Plan(head=head, stale=stale)


def _head(api: HfApi, request: PushRequest) -> tuple[str, list[str]]:
    """The commit that the branch stands for, and the names of its files."""

    def look() -> tuple[str, list[str]]:
        info = api.model_info(request.repo_id, revision=request.branch)
        return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]

    return asking(look, repo_id=request.repo_id)


def _texts_there(request: PushRequest, *, commit: str, remote: list[str]) -> dict[str, str]:
    """What the commit has of the card and of the records that an earlier push left beside it."""
    pinned = Pinned(repo_id=request.repo_id, commit=commit, name=None, online=True)
    with tempfile.TemporaryDirectory() as scratch:
        return {
            name: fetch(pinned, name, cache_dir=Path(scratch)).data.decode("utf-8", errors="replace")
            for name in (CARD_FILE, CARD_BASE_FILE, PUSHED_FILE)
            if name in remote
        }


def _stage_texts(request: PushRequest, *, there: Mapping[str, str]) -> None:
    """Stage the card with everybody's edits, the card as generated, and the record of what may go again."""
    fresh = generated_card(request.folder, repo_id=request.repo_id)
    card = with_own_edits(fresh, folder=request.folder)
    if CARD_FILE in there:
        card = with_edits(
            card, edited=there[CARD_FILE], generated=there.get(CARD_BASE_FILE), source=request.repo_id
        )
    record = {
        name: _sums(path.read_bytes())
        for name, path in staged_files(request).items()
        if _COMES_AND_GOES.fullmatch(name)
    }
    texts = {CARD_FILE: card, CARD_BASE_FILE: fresh, PUSHED_FILE: json.dumps(record, indent=2) + "\n"}
    for name, text in texts.items():
        path = request.staged / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())


def staged_files(request: PushRequest) -> dict[str, Path]:
    """Name in the repository -> file, of all that the commit has to hold."""
    paths = (path for path in sorted(request.staged.rglob("*")) if path.is_file())
    return {path.relative_to(request.staged).as_posix(): path for path in paths}


def _sums(data: bytes) -> list[str]:
    """Git's name of the content, and the sha256 that large files have: the Hub chooses which a file is."""
    return [sum_of(data, like="0" * 40), sum_of(data, like="0" * 64)]


def _ours(api: HfApi, repo_id: str, names: list[str], *, commit: str, record: str) -> tuple[str, ...]:
    """Those of the names that a push of ours put there and nobody has changed since; nothing of others.

    Pushes from before there was a record left none, so what they sent stays.
    """
    known = _read_record(record, source=repo_id)
    names = [name for name in names if name in known]
    if not names:
        return ()
    entries = asking(lambda: api.get_paths_info(repo_id, names, revision=commit), repo_id=repo_id)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    declared = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}
    unchanged = tuple(name for name in names if declared.get(name) in known[name])
    for name in names:
        what = "is taken away" if name in unchanged else "was changed on the Hub since, and stays"
        _log.info("%s: %s of an earlier push %s.", repo_id, name, what)
    return unchanged


def _read_record(text: str, *, source: str) -> dict[str, list[str]]:
    """Name -> sums of what an earlier push sent; nothing where somebody made the record unreadable."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(sums, list) for sums in record.values()):
        _log.warning("%s of %s cannot be read; old figures and scores stay there.", PUSHED_FILE, source)
        return {}
    return record


def _made_all_the_same(api: HfApi, request: PushRequest, plan: _Plan) -> Sent | None:
    """The commit that holds all that was sent, if the Hub has it in spite of its answer."""
    try:
        if request.create_pr:
            return _pull_request_with(api, request)
        now = str(api.model_info(request.repo_id, revision=request.branch).sha)
        if now != plan.head and _holds(api, request, now):
            return Sent(commit=now, pull_request=None)
    except Exception as error:  # it does not answer this either; the caller tries again
        _log.info("%s: %s", request.repo_id, type(error).__name__)
    return None


def _pull_request_with(api: HfApi, request: PushRequest) -> Sent | None:
    """The newest pull request, if it holds exactly this: an earlier try may have opened it."""
    refs = asking(
        lambda: api.list_repo_refs(request.repo_id, include_pull_requests=True), repo_id=request.repo_id
    )
    pulls = {int(ref.ref.rsplit("/", 1)[-1]): ref.target_commit for ref in refs.pull_requests or []}
    if not pulls or not _holds(api, request, pulls[max(pulls)]):
        return None
    url = f"{api.endpoint}/{request.repo_id}/discussions/{max(pulls)}"
    return Sent(commit=pulls[max(pulls)], pull_request=url)


def _holds(api: HfApi, request: PushRequest, commit: str) -> bool:
    """Whether the commit has every staged file, by the sums that the Hub declares."""
    found = api.verify_repo_checksums(request.repo_id, revision=commit, local_dir=request.staged)
    return not found.mismatches and not found.extra_paths  # extra here, so missing there


def _refused_commit(error: Exception, request: PushRequest) -> HubError:
    if isinstance(error, ValueError) and "metadata" in str(error):
        return HubError(f"The Hub refuses the card: {redact(' '.join(str(error).split()))[:300]}")
    if isinstance(error, HubError):
        return error
    return explained(error, repo_id=request.repo_id, revision=None if request.create_pr else request.branch)


def refuse_taken_tag(api: HfApi, request: PushRequest) -> None:
    """HubError if the tag is there already, for another commit than the one that this push would end at."""
    refs = asking(
        lambda: api.list_repo_refs(request.repo_id, include_pull_requests=True), repo_id=request.repo_id
    )
    target = next((ref.target_commit for ref in refs.tags if ref.name == request.tag), None)
    if target is None:
        return
    there = {ref.name for ref in [*refs.branches, *(refs.pull_requests or [])]}
    if request.branch not in there:
        request = replace(request, branch=constants.DEFAULT_REVISION)  # it would be made from this
    if _ends_at(api, request) != target:
        raise HubError(
            f"{request.repo_id} has the tag {request.tag!r} already, for the commit {target}, and this push "
            f"would make another commit. Nothing was sent. Tags are not moved: take another name for --tag."
        )


def _ends_at(api: HfApi, request: PushRequest) -> str | None:
    """The commit that has all of it already, so that none is to be made; None if one is."""
    plan = _plan(api, request)
    if request.create_pr:
        found = _pull_request_with(api, request)
        return found.commit if found is not None else None
    is_whole = asking(lambda: _holds(api, request, plan.head), repo_id=request.repo_id)
    return plan.head if is_whole and not plan.stale else None


def read_back(request: PushRequest, sent: Sent) -> None:
    """Fetch the commit as a stranger would, and compare every byte with what was sent.

    The Hub's declared sums alone would prove only that it got the files, not that it gives them back.
    """
    pinned = Pinned(repo_id=request.repo_id, commit=sent.commit, name=None, online=True)
    with tempfile.TemporaryDirectory(prefix="resnet_hub-read-back-") as scratch:
        for name, path in staged_files(request).items():
            if fetch(pinned, name, cache_dir=Path(scratch)).data != path.read_bytes():
                raise HubError(
                    f"{name} of {request.repo_id} at {sent.commit} is not what was sent: the Hub gives back "
                    f"other bytes. Delete that commit there, and push again."
                )
