"""Writing over a model folder: nothing that a person made is lost, and there is always a whole one."""

import os
from pathlib import Path

import pytest

from resnet_hub.finetuning.disk import fsync
from resnet_hub.hub import durable


@pytest.mark.parametrize("windows", [False, True])
def test_on_windows_files_are_flushed_through_handles_that_may_write_and_folders_are_not_opened(
    tmp_path, monkeypatch, windows
):
    (tmp_path / "file").write_text("x")
    opened: dict[Path, int] = {}
    flushed: list[int] = []
    real_open, real_fsync = os.open, os.fsync
    monkeypatch.setattr(durable, "_IS_WINDOWS", windows)
    monkeypatch.setattr(
        os, "open", lambda path, flags: opened.update({path: flags}) or real_open(path, flags)
    )
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(handle) or real_fsync(handle))
    for path in (tmp_path / "file", tmp_path):
        fsync(path)
    assert opened == ({tmp_path / "file": os.O_RDWR} if windows else dict.fromkeys(opened, os.O_RDONLY))
    assert len(flushed) == len(opened) == (1 if windows else 2)
