"""A bar on a terminal, plain lines elsewhere."""

import io
import sys

import pytest

from resnet_hub.finetuning.machine.display import Display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("screen", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_terminal_shows_a_bar_and_a_file_gets_lines(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", screen)
    display = Display(is_main=True)
    with display.training(total_steps=4, first_step=1):
        display.step(2, total=4, loss=0.5, images_per_second=10)
        display.say("epoch 1")
    has_bar = isinstance(screen, Terminal)
    assert ("training:" in screen.getvalue()) is has_bar
    assert ("1/4" in screen.getvalue()) is has_bar
    assert "epoch 1\n" in screen.getvalue()


def test_other_processes_than_the_first_are_silent(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    display = Display(is_main=False)
    with display.training(total_steps=4, first_step=0):
        display.say("epoch 1")
    assert screen.getvalue() == ""
