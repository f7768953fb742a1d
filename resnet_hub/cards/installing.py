"""What a reader of a card types to get this package, which is not on PyPI."""

import json
import re
import subprocess
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

_PUBLIC_HOSTS = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "huggingface.co")
_LABELS = ("repository", "source", "source code")  # of the addresses in a package's metadata


@cache
def install_command() -> str | None:
    """`pip install git+https://...`, or None where no repository of the package is known.

    The repository is that of the package's metadata, else the one that it was installed or cloned from, if it
    is on a host that everybody can reach: a card must not tell of a company's own.
    """
    address = _in_metadata() or _installed_from() or _cloned_from()
    return f"pip install git+{address}" if address else None


def _in_metadata() -> str | None:
    entries = distribution("resnet_hub").metadata.get_all("Project-URL") or []
    pairs = (entry.partition(",") for entry in entries)
    return next((url.strip() for label, _, url in pairs if label.strip().lower() in _LABELS), None)


def _installed_from() -> str | None:
    """Repository and commit that pip noted (PEP 610)."""
    record = json.loads(distribution("resnet_hub").read_text("direct_url.json") or "{}")
    commit = record.get("vcs_info", {}).get("commit_id")
    return f"{record['url']}@{commit}" if commit and _is_public(record["url"]) else None


def _cloned_from() -> str | None:
    """The `origin` of the clone that this file is tracked in."""
    origin = ask_git("remote", "get-url", "origin") if is_checkout() else None
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", origin or "")
    return url if _is_public(url) else None


def _is_public(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.netloc in _PUBLIC_HOSTS  # so with no user and no token in it


def is_checkout() -> bool:
    """Whether the package is in a clone of its repository, and not merely below somebody's."""
    return ask_git("ls-files", "--error-unmatch", Path(__file__).name) is not None


def ask_git(*arguments: str) -> str | None:
    """What git says in the folder of this file; None where it fails or is not there."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
