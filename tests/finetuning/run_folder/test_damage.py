"""Damaged run folders: what can be is made again, what is lost is named, and what was whole is kept."""

import json
import shutil
from pathlib import Path

import pytest

from resnet_hub.cli.main import main
from resnet_hub.finetuning.run_folder.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint

from ..runs import (
    DAMAGES,
    ForkServer,
    assert_same_run,
    do_damage,
    happens,
    log_of,
    saved,
)

LAST, BEFORE = "step-00000020", "step-00000018"


@pytest.fixture(scope="module")
def stopped(server: ForkServer, tmp_path_factory) -> Path:
    """A run with whole checkpoints of steps 18 and 20, of the end of an epoch and of a signal."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    rarely = ("--checkpoint_minutes", "10")
    server.run(folder, *rarely, faults=[happens("engine.step.train_step", "SIGTERM", call=20)], code=75)
    assert saved(folder) == {LAST, BEFORE}
    return folder


FILES = ("model", "optimizer", "average", "best", "values", "manifest")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_run_passes_over_whatever_is_damaged_and_says_what(
    name: str, server: ForkServer, stopped: Path, tmp_path: Path
):
    file = f"{name}.json" if name in ("values", "manifest") else f"{name}.safetensors"
    for damage in DAMAGES:
        folder = tmp_path / damage
        shutil.copytree(stopped, folder)
        do_damage(folder / "checkpoints" / LAST / file, damage)
        said = server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM")], code=75)
        assert (LAST if name == "manifest" else f"{LAST}/{file}") in said, (damage, said)
        assert "resuming from step 18 " in said
        assert saved(folder) == {BEFORE, "step-00000019"}


@pytest.mark.slow
def test_a_run_that_passed_over_a_damaged_checkpoint_ends_as_if_nothing_had_been(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    do_damage(folder / "checkpoints" / LAST / "optimizer.safetensors", "flip")
    server.run(folder)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_where_all_are_damaged_nothing_is_started_anew(server: ForkServer, stopped: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in (LAST, BEFORE):
        do_damage(folder / "checkpoints" / name / "model.safetensors", "half")
    server.run(folder, code=1)
    assert f"All checkpoints in {folder / 'checkpoints'} are damaged" in log_of(folder).read_text()
    assert saved(folder) == {LAST, BEFORE}
    assert not (folder / "report.json").exists()


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_says_so_and_with_resume_must_begins_nothing(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    shutil.rmtree(folder / "checkpoints")
    log = (folder / "metrics.jsonl").read_bytes()
    server.run(folder, "--resume", "must", code=2)
    assert "there is no checkpoint in" in log_of(folder).read_text()
    assert (folder / "metrics.jsonl").read_bytes() == log
    server.run(folder)
    dropped = len(log.splitlines())
    assert f"the run starts over; the {dropped} events in its log are dropped" in log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_checkpoint_of_another_release_is_named_and_left_alone(
    server: ForkServer, stopped: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    checkpoints = folder / "checkpoints"
    ours = read_newest_checkpoint(checkpoints)
    assert ours is not None
    theirs = Checkpoint(tensors=ours.tensors, values={**ours.values, "format": 99})
    write_checkpoint(checkpoints, 21, theirs)
    before = saved(folder)
    said = server.run(folder, code=1)
    assert "are of format 99, and this release of resnet_hub reads format 1" in said
    assert "Traceback" not in said
    assert saved(folder) == before


def damage(path: Path, what: str) -> None:
    """Whatever can happen to a file or a folder."""
    content = path.read_bytes() if path.is_file() else b""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if what == "replaced":
        path.write_text("a file") if not content else path.mkdir()
    elif what == "emptied":
        path.write_bytes(b"") if content else path.mkdir()
    elif what != "gone":
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\xff\x00{[" * 40}[what])


FILE, FOLDER = ("gone", "emptied", "cut", "garbage", "replaced"), ("gone", "emptied", "replaced")
UNFINISHED = {  # what is said of each where it is damaged, if not that something else is in its place
    "config.yaml": "config.yaml was missing or damaged; it is made again",
    "environment.json": "environment.json was missing or damaged; it is made again",
    "metrics.jsonl": "metrics.jsonl is damaged: some of its events before step 20 are lost",
    "plots": "resuming from step 20",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_whose_files_are_damaged_resumes_and_says_what_is_lost(
    name: str, server: ForkServer, stopped: Path, tmp_path: Path
):
    for what in FOLDER if name == "plots" else FILE:
        folder = tmp_path / what
        shutil.copytree(stopped, folder)
        damage(folder / name, what)
        if what == "replaced":
            said = server.run(folder, code=2)
            assert f"error: {folder / name} is a" in said
            damage(folder / name, "gone")  # as the message asks for
        said = server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM")], code=75)
        assert UNFINISHED[name] in said, (what, said)
        assert "Traceback" not in said
        assert (folder / "config.yaml").read_text() == (stopped / "config.yaml").read_text()
        assert json.loads((folder / "environment.json").read_text())["facts"]
        assert saved(folder) == {LAST, "step-00000021"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_without_the_files_that_people_read_ends_as_if_they_had_been_there(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in ("config.yaml", "environment.json", "plots"):
        damage(folder / name, "gone")
    server.run(folder)
    assert_same_run(folder, uninterrupted)


MANIFESTS = (
    "",
    "{",
    "null",
    "7",
    "[]",
    "{}",
    '"text"',
    *(f'{{"sha256": {it}}}' for it in ("[]", "{}", "null")),
)
STRAY = "step-99999999"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stray_checkpoints_and_manifests_of_any_shape_are_passed_over(
    server: ForkServer, stopped: Path, tmp_path: Path
):
    for number, manifest in enumerate((None, *MANIFESTS)):
        folder = tmp_path / str(number)
        shutil.copytree(stopped, folder)
        (folder / "checkpoints" / f"{STRAY}-3").write_text("a file")
        (folder / "checkpoints" / STRAY).mkdir()
        if manifest is not None:
            (folder / "checkpoints" / STRAY / "manifest.json").write_text(manifest)
        said = server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM")], code=75)
        assert f"{STRAY}/manifest.json is missing or unreadable" in said
        assert "resuming from step 20" in said
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_damage_of_which_no_checkpoint_has_a_copy_is_named_and_nothing_is_touched(
    name: str, server: ForkServer, stopped: Path, tmp_path: Path
):
    for what in ("gone", "emptied", "garbage") if name == "environment.json" else ("emptied", "garbage"):
        folder = tmp_path / what
        shutil.copytree(stopped, folder)
        shutil.rmtree(folder / "checkpoints")
        damage(folder / name, what)
        said = server.run(folder, code=2)
        assert f"{folder / name} is missing or damaged, and no checkpoint has a copy" in said
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_finished_run_whose_report_is_damaged_is_measured_again(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    for what in FILE:
        folder = tmp_path / what
        shutil.copytree(uninterrupted, folder)
        damage(folder / "report.json", what)
        if what == "replaced":
            assert f"{folder / 'report.json'} is a folder" in server.run(folder, code=2)
            damage(folder / "report.json", "gone")
        server.run(folder)
        assert_same_run(folder, uninterrupted)
    assert "holds a finished run" in server.run(folder, code=2)


READ = ("config.yaml", "environment.json", "metrics.jsonl", "report.json", "predictions.parquet", "plots")
EXPORT = ("config.json", "model.safetensors", "report.json", "README.md")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [*READ, "report.html", "checkpoints", *(f"export/{name}" for name in EXPORT)]
)
def test_verbs_answer_of_a_damaged_finished_run_or_name_what_is_damaged(
    name: str, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "other"
    shutil.copytree(uninterrupted, other)
    for what in FILE if (uninterrupted / name).is_file() else FOLDER:
        folder = tmp_path / what
        shutil.copytree(uninterrupted, folder)
        damage(folder / name, what)
        for number, words in enumerate(
            (
                ("compare", str(other), str(folder), "--output", str(tmp_path / f"{what}.html")),
                ("card", str(folder / "export")),
                ("card", str(folder)),
                ("validate", str(folder)),
                ("export", str(folder), "--formats", "pt2", "--output_dir", str(folder / "files")),
            )
        ):
            code = main(words)
            said = capsys.readouterr()
            assert code in (0, 2), (what, words, said)
            if code == 2 and number != 2:  # a run's folder has no card
                assert Path(name).name in said.err, (what, words, said.err)
