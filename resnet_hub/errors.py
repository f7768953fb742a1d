"""Errors a person can act on: what was asked, what was found, what to type next."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

PACKAGES_OF_EXTRAS = {
    "finetune": ("accelerate", "datasets", "matplotlib", "psutil", "pyarrow", "scipy", "sklearn", "tyro"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "predict": ("pytorch_grad_cam",),
    "demo": ("gradio",),
}
"""Extra of this package -> names under which what it installs is imported."""


class UserError(ValueError):
    """A request that cannot be carried out as typed; the command line turns it into exit code 2."""


class ConfigError(UserError):
    """An option or configuration key that is unknown, badly typed or contradicts another."""


class DataError(UserError):
    """A data set that cannot be found, understood or trusted."""


class ModelError(UserError):
    """A model, variant or checkpoint that is unknown or does not fit."""


class HubError(UserError):
    """The Hub, a repository on it or a model folder that cannot be reached, read or written."""


class RunError(RuntimeError):
    """A run that had begun and cannot go on; what it has written stays. The command line ends with 1."""


def nearest(name: str, known: Iterable[str], *, shown: int = 5) -> str:
    """Half a sentence that helps with a misspelt name: the nearest known ones, or the first few."""
    names = sorted(known)
    close = get_close_matches(name, names, n=shown, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"known are {some_of(names, shown)}."


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many names, and how many more there are: `ant, bee and 7 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@contextmanager
def naming_the_extra() -> Iterator[None]:
    """Turn the missing package of an extra into a UserError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in PACKAGES_OF_EXTRAS.items():
            if package in packages:
                raise UserError(
                    f"This needs the package {package}, which is not installed. "
                    f'Run: pip install "resnet_hub[{extra}]"'
                ) from error
        raise
