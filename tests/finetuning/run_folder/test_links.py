"""A link that somebody else put into a run's folder leads a run to no other file."""

from pathlib import Path

import pytest
from filelock import FileLock

from resnet_hub.errors import ConfigError
from resnet_hub.files import open_without_links
from resnet_hub.finetuning.run_folder.event_log import EventLog
from resnet_hub.finetuning.run_folder.folder import RunFolder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("thesis")
    return path


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_lock_that_is_a_link_is_refused_and_its_target_stays(tmp_path, precious, there):
    target = precious if there else tmp_path / "nothing"
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(target)
    with pytest.raises(ConfigError, match=r"\.lock is a link"), folder.in_use():
        pass
    assert precious.read_text() == "thesis"
    assert target.exists() == there


def test_events_and_bad_images_are_not_appended_to_what_a_link_leads_to(tmp_path, precious):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for path in (folder.metrics, folder.bad_images):
        path.symlink_to(precious)
    EventLog(folder.metrics).add("step", step=1, epoch=0.1)  # warns, and keeps it
    with pytest.raises(OSError, match="symbolic link"):
        folder.add_bad_images([{"row": 1}])
    assert precious.read_text() == "thesis"


def test_a_file_of_ones_own_is_opened_as_ever(tmp_path):
    for mode, text in (("w", "a\n"), ("a", "b\n")):
        with open_without_links(tmp_path / "x", mode) as file:
            file.write(text)
    assert (tmp_path / "x").read_bytes() == b"a\nb\n"


def test_the_locks_of_filelock_refuse_links_too(tmp_path, precious):
    (tmp_path / "x.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"), FileLock(tmp_path / "x.lock", timeout=1):
        pass
    assert precious.read_text() == "thesis"
