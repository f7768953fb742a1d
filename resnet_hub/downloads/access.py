"""Talk to the Hub: fail fast when offline, retry transient errors, never print tokens."""

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata, get_hf_file_metadata

from resnet_hub.errors import HubError

FIRST_ANSWER_SECONDS = 5.0
"""How long the Hub may take for its first answer. huggingface_hub itself gives up on a dead one after 23 s
or more."""

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try
_LONGEST_WAIT = 30.0  # what a Retry-After of the Hub is obeyed up to
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{8,}|(?<![\w-])(?:X-(?:Amz|Goog|Xet)-[\w-]+|Signature|Policy|Key-Pair-Id|sig|\w*token)"
    r"=[^&\s\"'<>]+",
    re.IGNORECASE,
)
_LOGGERS = ("utils._http", "file_download", "hf_api", "hf_file_system", "_commit_api", "lfs", "utils._xet")
_OWN_HOSTS = ("huggingface.co", "hf.co")

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class _Redacted(logging.Filter):
    """Makes keys and tokens in records unreadable: huggingface_hub logs the addresses that failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True


for _name in _LOGGERS:
    logging.getLogger(f"huggingface_hub.{_name}").addFilter(_Redacted())


class UnreachableError(HubError):
    """The Hub did not answer at all, or this process was told not to ask it; `found` says which."""

    def __init__(self, found: str, help_text: str = "") -> None:
        self.found = found
        super().__init__(help_text or f"The Hub cannot be reached ({found}). {_asked_where()}")


class NotServedError(HubError):
    """The Hub answered, but not the question: it is busy, it fails, or it does not take the token."""


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every connection."""
    return bool(constants.HF_HUB_OFFLINE)


@cache
def note_recipient(endpoint: str) -> None:
    """Warn, once, that a Hub which is neither Hugging Face's nor on this machine gets the token."""
    host = urlsplit(endpoint).hostname or endpoint
    is_own = any(host == own or host.endswith(f".{own}") for own in _OWN_HOSTS)
    if not (is_own or _is_loopback(host) or constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or get_token() is None):
        _log.warning(
            "HF_ENDPOINT is set: your Hugging Face token is sent to %s. If it must not have it, unset "
            "HF_ENDPOINT, or set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to read public files without a token.",
            host,
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def look_up(
    repo_id: str, filename: str, *, revision: str | None, patience: float = math.inf
) -> HfFileMetadata:
    """Commit, sum and size of a file as the Hub declares them, within seconds or not at all.

    Raises:
        UnreachableError: nobody answered in FIRST_ANSWER_SECONDS, twice.
        NotServedError: the Hub is busy or fails, for longer than `patience`, or does not take the token.
        HubError: the Hub answered that there is no such thing, or that it may not be read.
    """
    if offline():
        raise UnreachableError("HF_HUB_OFFLINE is set")
    try:
        url = hf_hub_url(repo_id, filename, revision=revision)
    except HFValidationError:
        raise HubError(
            f"{redact(repo_id)!r} is neither a folder nor the name of a repository on the Hub, which is "
            f"'owner/name'."
        ) from None
    return asking(
        lambda: _within(
            FIRST_ANSWER_SECONDS, lambda: get_hf_file_metadata(url, timeout=FIRST_ANSWER_SECONDS)
        ),
        repo_id=repo_id,
        revision=revision,
        tries_without_answer=2,
        patience=patience,
    )


def asking(
    request: Callable[[], _Result],
    *,
    repo_id: str,
    revision: str | None = None,
    tries_without_answer: int = 3,
    patience: float = math.inf,
) -> _Result:
    """Send the request and give its result; retry transient errors, turn others into a HubError that helps.

    Args:
        request: one or several calls of huggingface_hub, safe to repeat.
        repo_id: for the message.
        revision: for the message, if there is one.
        tries_without_answer: how often to try where nobody answers.
        patience: longest time in seconds to spend waiting between tries.
    """
    note_recipient(constants.ENDPOINT)
    waited = 0.0
    for number, wait in enumerate((*_WAITS, None), start=1):
        try:
            return request()
        except Exception as error:
            no_answer = is_no_answer(error)
            seconds = max(wait or 0.0, _asked_wait(error))
            waited += seconds
            is_hopeless = (
                wait is None
                or not (no_answer or _passes(error))
                or (no_answer and number >= tries_without_answer)
                or waited > patience
            )
            if is_hopeless:
                raise explained(error, repo_id=repo_id, revision=revision) from None
            _log.info("%s: %s; again in %.1f s", repo_id, type(error).__name__, seconds)
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def may_pass(error: Exception) -> bool:
    """Whether to try again: nobody answered, the Hub was busy, or somebody else was quicker."""
    return is_no_answer(error) or _passes(error) or status_of(error) == 412


def is_no_answer(error: BaseException) -> bool:
    """Whether the connection failed, not the request; huggingface_hub 1 and 2 use two httpx packages."""
    if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
        return False
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # around a failed upload
        return is_no_answer(error.__cause__)
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return True
    return isinstance(error, ConnectionError | TimeoutError)


def _passes(error: Exception) -> bool:
    """Whether the same request may soon succeed: overload, a cut body, an expired signed address."""
    status = status_of(error)
    response = getattr(error, "response", None)
    expired = status == 403 and response is not None and not str(response.url).startswith(constants.ENDPOINT)
    return status in _PASSING or expired or "Consistency check failed" in str(error)


def _is_of_xet(error: Exception) -> bool:
    """Whether a Xet store failed, or the Hub that gives the tokens for it: hf_xet has no types of its own."""
    response = getattr(error, "response", None)
    if response is not None:
        return "/xet-" in str(response.url)
    return not constants.HF_HUB_DISABLE_XET and type(error) is ConnectionError


def _within(seconds: float, request: Callable[[], _Result]) -> _Result:
    """What the request gives, or TimeoutError: some systems try each address of a host for so long."""
    outcome: list[_Result | BaseException] = []

    def run() -> None:
        try:
            outcome.append(request())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the Hub answered with, if it answered; the cause counts as well."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None and (status := getattr(response, "status_code", None)) is not None:
            return int(status)
        seen = seen.__cause__
    return None


def explained(error: Exception, *, repo_id: str, revision: str | None = None) -> HubError:
    """The error as help: what was asked, what was found, what to type next; no address that holds keys."""
    if isinstance(error, HubError):
        return error
    at = f"{repo_id}@{revision}" if revision else repo_id
    who = "with your token" if get_token() else "without a token"
    login = "Log in with `hf auth login`, or set HF_TOKEN, if you have access."
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo_id}"
        return HubError(f"{at} is gated, and {who} it may not be read. Ask for access at {page}. {login}")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{constants.ENDPOINT} has no {repo_id}, or hides it: asked {who}. {login}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(
            f"{repo_id} has no branch, tag or commit {revision!r}. Its branches and tags: "
            f"{constants.ENDPOINT}/{repo_id}/tree/main"
        )
    if isinstance(error, HFValidationError):
        return HubError(
            f"{redact(repo_id)!r} cannot be the name of a repository on the Hub, which is 'owner/name'."
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return HubError(f"{at} has no file {str(error.response.url.path).rpartition('/')[2]!r}.")
    if _is_of_xet(error):
        return HubError(
            f"The Xet store that holds large files of {at} failed: {_one_line(error)} With "
            f"HF_HUB_DISABLE_XET=1 they go over plain HTTP."
        )
    if (status := status_of(error)) is not None:
        return _refused(status, at=at, who=who, login=login, error=error)
    if is_no_answer(error) or isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return UnreachableError(_one_line(error))
    return HubError(f"Asking the Hub for {at} failed with {type(error).__name__}: {_one_line(error)}")


def not_to_be_had(repo_id: str, *, found: str, filename: str | None = None) -> UnreachableError:
    """The error for what neither the Hub nor the cache can give, with every way out."""
    wanted = f"{filename} of {repo_id}" if filename else repo_id
    return UnreachableError(
        found,
        f"{wanted} is needed, the Hub cannot be reached ({found}), and the cache does not have it. "
        f"{_asked_where()} "
        f"Cache: {constants.HF_HUB_CACHE} (set HF_HOME or HF_HUB_CACHE, or fill it where there is a "
        f"connection: "
        f"resnet-hub download {repo_id}). A fine-tuning can also start from random weights: --no-pretrained.",
    )


def _asked_where() -> str:
    return f"Asked: {constants.ENDPOINT} (set HF_ENDPOINT for a mirror, HTTPS_PROXY for a proxy)."


def redact(text: str) -> str:
    """The text with tokens, and with the keys in signed addresses, made unreadable."""
    token = get_token()
    text = _SECRET.sub("***", text)
    return text.replace(token, "***") if token else text


def _refused(status: int, *, at: str, who: str, login: str, error: Exception) -> HubError:
    if status == 401:
        return NotServedError(f"The Hub does not accept the token that is set, asking for {at}. {login}")
    if status == 403:
        return HubError(f"The Hub forbids this for {at}, asked {who}: {_one_line(error)} {login}")
    if status == 429:
        return NotServedError(
            f"Rate-limited by the Hub (429) while asking for {at}. Try again in some minutes."
        )
    kind = NotServedError if status == 408 or status >= 500 else HubError
    return kind(f"The Hub failed with {status} for {at}: {_one_line(error)} Try again in some minutes.")


def _asked_wait(error: BaseException) -> float:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(value), _LONGEST_WAIT) if value.isdigit() else 0.0


def _one_line(error: Exception) -> str:
    message = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return redact(" ".join(re.sub(r"https?://\S+", "", message).split()))[:200]
