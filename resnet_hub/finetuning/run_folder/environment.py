"""Where a run comes from: versions, system, git commit and command."""

import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def describe_environment() -> dict[str, Any]:
    """Versions, system, git commit and command, with no name of a person or host, and no token."""
    is_checkout = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "versions": package_versions(),
        "system": platform.platform(),
        "git_commit": _git("rev-parse", "HEAD") if is_checkout else None,
        "git_dirty": bool(_git("status", "--porcelain")) if is_checkout else None,
        "command": re.sub(r"hf_[A-Za-z0-9]{20,}", "hf_***", command),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run computes with."""
    packages = ("resnet_hub", "torch", "torchvision", "timm", "accelerate", "datasets", "huggingface_hub")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def _git(*arguments: str) -> str | None:
    """What git says in the folder of this package; None where it says nothing or there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
