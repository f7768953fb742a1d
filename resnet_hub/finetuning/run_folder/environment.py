"""Where a run comes from: versions, system, git commit and command."""

import platform
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from resnet_hub.cards.installing import ask_git, is_checkout


def describe_environment() -> dict[str, Any]:
    """Versions, system, git commit and command, with no name of a person or host, and no token."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "versions": package_versions(),
        "system": platform.platform(),
        "git_commit": ask_git("rev-parse", "HEAD") if is_checkout() else None,
        "git_dirty": bool(ask_git("status", "--porcelain")) if is_checkout() else None,
        "command": re.sub(r"hf_[A-Za-z0-9]{20,}", "hf_***", command),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run computes with."""
    packages = ("resnet_hub", "torch", "torchvision", "timm", "accelerate", "datasets", "huggingface_hub")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
