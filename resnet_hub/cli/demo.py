"""`resnet-hub demo`: a page on which people try a model, here or as a Space."""

import argparse
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnet_hub.cli.export import evenly, is_run, validation_split
from resnet_hub.cli.flags import LOOPBACK
from resnet_hub.demo.about import about_model
from resnet_hub.demo.space import write_space
from resnet_hub.errors import ConfigError, DataError, UserError
from resnet_hub.images.decoding import BadImageError, read_header
from resnet_hub.prediction.inputs import ImageInput, find_images
from resnet_hub.prediction.open_model import open_model
from resnet_hub.terminal import say

_EXAMPLES = 8


def run_demo(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or write the Space."""
    _check(arguments)
    model = open_model(arguments.model, revision=arguments.revision)
    folder = Path(arguments.model)
    title = folder.resolve().name if folder.is_dir() else arguments.model.rpartition("/")[2]
    about = about_model(model, arguments.model)
    with _scratch_of_gradio() as scratch:
        from resnet_hub.demo.page import LAUNCH_OPTIONS, build_page, theme  # noqa: PLC0415  imports gradio

        examples = _examples(arguments, Path(scratch))
        if arguments.space:
            write_space(model, arguments.space, title=title, examples=examples, about=about)
            say(f"Written: {arguments.space}")
            say(f"Publish it: hf upload OWNER/{title} {arguments.space} --repo-type space")
            return 0
        page = build_page(model, title=title, examples=examples, about=about)
        try:
            _, address, _ = page.launch(
                server_name=arguments.host,
                server_port=arguments.port,
                prevent_thread_lock=True,
                quiet=True,
                theme=theme(),
                **LAUNCH_OPTIONS,
            )
        except OSError as error:
            raise ConfigError(f"Cannot listen on {arguments.host}: {error}") from error
        say(f"Open {address} in a browser; Ctrl-C ends.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)
    return 0


@contextmanager
def _scratch_of_gradio() -> Iterator[str]:
    """A folder for examples and what visitors upload, which goes with the page, however that is stopped.

    gradio asks for it when it is imported.
    """
    place = os.environ.get("GRADIO_TEMP_DIR")
    if place:
        Path(place).mkdir(parents=True, exist_ok=True)  # as gradio does
    with tempfile.TemporaryDirectory(prefix="resnet_hub-demo-", dir=place) as scratch:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch, "gradio"))
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield scratch
        finally:
            signal.signal(signal.SIGTERM, previous)
            if place is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = place


def _check(arguments: argparse.Namespace) -> None:
    if arguments.space and (arguments.port or arguments.host != LOOPBACK):
        raise ConfigError("--space writes a folder and serves nothing: leave out --host and --port.")
    if arguments.examples and not arguments.examples.is_dir():
        raise ConfigError(f"--examples {arguments.examples}: there is no such folder.")


def _examples(arguments: argparse.Namespace, scratch: Path) -> list[Path]:
    """Images to click on: readable ones of the folder that is named, or of the run's validation split."""
    if arguments.examples:
        found = [Path(image.name) for image in find_images([str(arguments.examples)]) if _is_readable(image)]
        if not found:
            raise DataError(f"--examples {arguments.examples}: none of its images can be read.")
        return [found[number] for number in evenly(len(found), _EXAMPLES)]
    run = Path(arguments.model)
    if not is_run(run):
        return []
    try:
        split = validation_split(run)
    except UserError:  # its data is elsewhere by now; the page works without
        return []
    paths = []
    for number in evenly(len(split), _EXAMPLES):
        paths.append(scratch / f"{split.name}-{number}.png")
        split.image(number).save(paths[-1])
    return paths


def _is_readable(image: ImageInput) -> bool:
    try:
        read_header(image.read())
    except BadImageError:
        return False
    return True
