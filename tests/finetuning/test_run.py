"""The whole way: from a data set to a report and an export, by the command that users type."""

import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import timm
from safetensors.torch import load_file

import resnet_hub
from resnet_hub.cli.main import main as resnet_hub_command
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import load_config
from resnet_hub.finetuning.finish import write_page
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.results import RunReport
from tests.hub_server.fixtures import publish

from .conftest import ROOT, TINY, environment, finetune_command, run_command
from .image_files import table

pytest_plugins = ["tests.hub_server.fixtures", "tests.browser"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A finished run of two epochs in bf16 and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    options = ("--num_train_epochs", "2", "--mixed_precision", "bf16", "--output_dir", folder)
    done = run_command(finetune_command(*TINY, *options))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_run_writes_exactly_these_files(finished):
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "report.json",
        "predictions.parquet",
        "report.html",
        "example.png",
        "plots/learning_curves.png",
        "plots/confusion_test.png",
        "plots/train_batch.png",
        "plots/validation_batch.png",
        "export/model.safetensors",
        "export/config.json",
        "export/README.md",
    }
    assert expected <= names
    written_by_number = ("checkpoints/step-", "export/", "plots/examples/test-")
    rest = {name for name in names - expected if not name.startswith(written_by_number)}
    assert rest == set()


def test_the_report_has_what_was_promised(finished):
    folder, _ = finished
    report = json.loads((folder / "report.json").read_text())
    assert report["model"] == "my_resnet20"
    assert report["dataset"] == "digits"
    assert report["class_names"] == [str(digit) for digit in range(10)]
    assert [report["splits"][name]["num_images"] for name in ("train", "validation", "test")] == [
        1257,
        270,
        270,
    ]
    assert "stratified" in report["splits"]["test"]["how"]
    for split in ("validation", "test"):
        score = report[split]
        low, high = score["accuracy_interval_95"]
        assert low < score["accuracy"] < high
        assert score["num_images"] == 270
        assert 0 < score["macro_f1"] <= 1
        assert score["accuracy"] <= score["top5_accuracy"] <= 1
        assert math.isfinite(score["loss"])
    assert report["train"]["steps"] == 2 * math.ceil(1257 / 128)
    assert report["resumed_from_step"] is None
    assert RunReport.load(folder / "report.json").seed == 0


def test_the_time_of_a_run_is_accounted_for_by_station(finished):
    folder, _ = finished
    train = RunReport.load(folder / "report.json").train
    assert set(train.station_seconds) == {"data", "forward", "backward", "optimizer", "evaluation", "saving"}
    assert all(seconds > 0 for seconds in train.station_seconds.values())
    work = sum(seconds for name, seconds in train.station_seconds.items() if name != "saving")
    assert work > 0.9 * train.seconds


def test_the_page_of_a_run_shows_its_numbers_and_pictures_and_asks_nothing_of_a_network(finished, browser):
    folder, printed = finished
    page = folder / "report.html"
    assert str(page) in printed
    assert page.stat().st_size < 3_000_000
    browser.open(page.as_uri())
    assert browser.messages() == []
    assert browser.requests() == [page.as_uri()]
    assert [picture for picture in browser.pictures() if not picture["width"]] == []
    assert len(list((folder / "plots/examples").iterdir())) >= 12
    score = RunReport.load(folder / "report.json").test
    assert score is not None
    browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    text = browser.text()
    for shown in (f"{100 * score.accuracy:.2f} %", f"{score.expected_calibration_error:.4f}", "backward"):
        assert shown in text
    assert "no picture" not in text


def test_the_page_can_be_made_again_from_the_folder_alone(finished, tmp_path: Path):
    folder, _ = finished
    assert resnet_hub_command(["compare", str(folder), "--output", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == (folder / "report.html").read_text()


def test_a_page_that_cannot_be_made_is_said_and_loses_no_run(finished, tmp_path: Path, caplog):
    folder, _ = finished
    broken = RunFolder(tmp_path)
    broken.predictions.write_text("no table")
    write_page(broken, RunReport.load(folder / "report.json"))
    assert not broken.page.exists()
    assert "could not be made" in caplog.text
    assert "predictions.parquet is damaged" in caplog.text


def test_the_numbers_of_the_report_are_those_of_the_predictions(finished):
    folder, _ = finished
    report = RunReport.load(folder / "report.json")
    assert report.test is not None
    rows = [
        row for row in pq.read_table(folder / "predictions.parquet").to_pylist() if row["split"] == "test"
    ]
    assert len(rows) == 270
    assert sum(row["label"] == row["predicted"] for row in rows) / 270 == report.test.accuracy


def test_the_three_printed_lines_load_the_export_and_classify_an_image(finished):
    _, printed = finished
    lines = [line.strip() for line in printed.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    done = run_command([sys.executable, "-c", "\n".join(lines)])
    assert done.returncode == 0, done.stderr
    assert "Prediction(label=" in done.stdout


def test_the_export_scores_what_the_report_says_in_whatever_precision_it_was_trained(finished):
    from resnet_hub.finetuning.data.load import load_data

    folder, _ = finished
    report = RunReport.load(folder / "report.json")
    assert report.test is not None
    data = load_data(FinetuneConfig(**load_config(folder / "config.yaml")))
    assert data.test is not None
    model = resnet_hub.load(folder)
    found = resnet_hub.classify_all(
        model, [data.test.image(index) for index in range(len(data.test))], top_k=1
    )
    labels = [data.class_names[number] for number in data.test.labels]
    right = sum(best[0].label == label for best, label in zip(found, labels, strict=True))
    assert right / len(labels) == report.test.accuracy
    rows = [
        row for row in pq.read_table(folder / "predictions.parquet").to_pylist() if row["split"] == "test"
    ]
    for best, row in zip(found, rows, strict=True):
        assert best[0].probability == pytest.approx(row["probability"], abs=1e-5)


def test_a_finished_folder_is_refused_and_stays_as_it_is(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = run_command(finetune_command(*TINY, "--num_train_epochs", "2", "--output_dir", folder))
    assert done.returncode == 2
    assert "finished run" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_configuration_of_a_run_repeats_it(finished, tmp_path: Path):
    folder, _ = finished
    again = tmp_path / "again"
    assert main(["--config", str(folder / "config.yaml"), "--output_dir", str(again)]) == 0
    first, second = RunReport.load(folder / "report.json"), RunReport.load(again / "report.json")
    assert first.test == second.test
    assert first.validation == second.validation


def test_accelerate_launch_runs_the_recipe_and_stdout_ends_with_the_way_on(tmp_path: Path):
    launch = [Path(sys.executable).parent / "accelerate", "launch", "--quiet"]
    arguments = (*TINY, "--max_train_steps", "2", "--output_dir", tmp_path / "run")
    done = run_command([*launch, ROOT / "recipes/finetune.py", *map(str, arguments)])
    assert done.returncode == 0, done.stderr
    assert f"report     {tmp_path / 'run' / 'report.json'}" in done.stdout
    assert RunReport.load(tmp_path / "run/report.json").train.steps == 2


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_a_file_plain_lines(tmp_path: Path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = finetune_command(*TINY, "--max_train_steps", "2", "--output_dir", tmp_path / "run")
    process = subprocess.Popen(command, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while chunk := read_terminal(ours):
        shown += chunk
    assert process.wait() == 0
    assert b"training" in shown
    assert b"%|" in shown
    plain = run_command(finetune_command(*TINY, "--max_train_steps", "2", "--output_dir", tmp_path / "plain"))
    assert "validation accuracy" in plain.stderr
    assert "%|" not in plain.stderr
    assert "\x1b" not in plain.stderr


def read_terminal(descriptor: int) -> bytes:
    """What was written to a terminal; nothing when its last writer is gone, which Linux calls an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_a_folder_of_images_is_enough(photo_folder: Path, tmp_path: Path):
    arguments = ["--train_dir", photo_folder / "train", "--validation_dir", photo_folder / "validation"]
    arguments += ["--test_fraction", 0, "--model", "my_resnet20", "--no-pretrained", "--image_size", 16]
    arguments += [
        "--num_train_epochs",
        8,
        "--per_device_train_batch_size",
        12,
        "--output_dir",
        tmp_path / "run",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    report = RunReport.load(tmp_path / "run/report.json")
    assert report.class_names == ("blue", "green", "red")
    assert report.test is None
    assert report.validation is not None
    assert report.validation.accuracy > 0.9
    assert "Accuracy, validation" in (tmp_path / "run/report.html").read_text()


@pytest.mark.slow
def test_images_with_several_labels_are_scored_and_shown(tmp_path: Path, capsys):
    labels = [[number % 3, *([2] if number % 2 else [])] for number in range(60)]
    feature = datasets.List(datasets.ClassLabel(names=["sun", "sea", "sand"]))
    datasets.DatasetDict(train=table([sorted(set(found)) for found in labels], feature)).save_to_disk(
        tmp_path / "data"
    )
    arguments = ["--dataset_name", tmp_path / "data", "--model", "my_resnet20", "--no-pretrained"]
    arguments += ["--image_size", 16, "--max_train_steps", 2, "--output_dir", tmp_path / "run"]
    assert main([str(argument) for argument in arguments]) == 0
    report = RunReport.load(tmp_path / "run/report.json")
    assert report.multi_label
    assert report.test is not None
    assert report.test.expected_calibration_error is None
    assert f"mAP {report.test.mean_average_precision:.4f}" in "".join(capsys.readouterr())
    page = (tmp_path / "run/report.html").read_text()
    assert "mAP" in page
    assert "no picture" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "my_resnet21"], "my_resnet20"),
        (["--model", "my_resnet50.a9_in1k"], "my_resnet50.a"),
        (["--model", "my_resnet32"], "--no-pretrained"),
        (["--dataset_name", "digit"], "digits"),
        (["--image_column_name", "imag"], "image"),
        (["--label_column_name", "lable"], "label"),
        (["--train_split", "trian"], "train"),
        (["--report_to", "tensorbord"], "tensorboard"),
        (["--hub_model_id", "me/it"], "--push_to_hub"),
        (["--resume", "must"], "no unfinished run"),
        (["--mixed_precision", "fp16"], "bf16 or no"),
        (["--gradient_accumulation_steps", "2000"], "too few"),
        (["--config", "nowhere.yaml"], "no such file"),
        (["--nmu_train_epochs", "3"], "num_train_epochs"),
    ],
)
def test_bad_input_ends_with_2_and_help_before_anything_is_written(arguments, said, tmp_path: Path, capsys):
    base = ["--dataset_name", "digits", "--model", "my_resnet20", "--output_dir", str(tmp_path / "run")]
    no_weights = [] if "--model" in arguments else ["--no-pretrained"]
    assert main([*base, *no_weights, *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()


def test_without_a_hub_the_way_out_is_said_within_fifteen_seconds(no_hub, tmp_path: Path, capsys):
    started = time.monotonic()
    arguments = ["--dataset_name", "digits", "--model", "my_resnet18", "--image_size", "32"]
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    assert time.monotonic() - started < 15
    shown = capsys.readouterr().err
    for word in ("HF_ENDPOINT", "--no-pretrained", "Cache"):
        assert word in shown
    assert not (tmp_path / "run").exists()


def test_weights_from_the_hub_are_the_start_and_the_card_says_so(hub, tmp_path: Path):
    model = timm.create_model("my_resnet18", num_classes=1000)
    names = [f"class {number}" for number in range(1000)]
    resnet_hub.save_folder(model, tmp_path / "weights", class_names=names)
    publish(hub, tmp_path / "weights", "timm/resnet18.a1_in1k")
    arguments = ["--dataset_name", "digits", "--model", "my_resnet18", "--image_size", "32"]
    assert main([*arguments, "--max_train_steps", "1", "--output_dir", str(tmp_path / "run")]) == 0
    report = RunReport.load(tmp_path / "run/report.json")
    assert report.model == "my_resnet18.a1_in1k"
    assert report.base_model == "timm/resnet18.a1_in1k"
    assert report.base_license == "apache-2.0"
    card = (tmp_path / "run/export/README.md").read_text()
    assert "base_model: timm/resnet18.a1_in1k" in card


def test_push_to_hub_publishes_the_finished_run(hub, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    push = ["--push_to_hub", "--hub_model_id", "alice/digits", "--hub_private_repo"]
    push += ["--license", "BSD-3-clause"]
    assert main([*TINY, "--max_train_steps", "1", *push, "--output_dir", str(folder)]) == 0
    assert "\nlicense: bsd-3-clause\n" in (folder / "export/README.md").read_text()
    said = "".join(capsys.readouterr())
    assert "published" in said
    token = os.environ["HF_TOKEN"]
    assert token not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]  # the run, the cache and the Hub's own
    assert {folder / "environment.json", folder / "export/README.md"} <= set(written)
    assert not [path for path in written if token.encode() in path.read_bytes()]
    ours, theirs = resnet_hub.load(folder), resnet_hub.load("alice/digits")
    assert all(ours.state_dict()[name].equal(tensor) for name, tensor in theirs.state_dict().items())


@pytest.fixture
def typing(monkeypatch) -> Iterator[Callable[[bytes], int]]:
    """A terminal as stdin; what is written to it is what a person types."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        yield lambda text: os.write(ours, text)
    os.close(ours)


PUSH = [*TINY, "--max_train_steps", "1", "--push_to_hub", "--hub_model_id", "alice/digits"]


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["no", "nothing", "end of input"])
def test_on_a_terminal_a_no_to_a_public_repository_ends_before_anything_is_written(
    hub, tmp_path: Path, typing, answer, capsys
):
    typing(answer)
    assert main([*PUSH, "--output_dir", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "alice/digits is not on the Hub yet and will be public" in shown
    assert "--hub_private_repo" in shown
    assert not (tmp_path / "run").exists()
    assert ("models", "alice/digits") not in hub.storage.repos


def test_ctrl_c_at_the_question_ends_it_with_nothing_written(hub, tmp_path: Path, typing, monkeypatch):
    wait = select.select

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return wait(*arguments)

    monkeypatch.setattr("resnet_hub.finetuning.prepare.select.select", interrupted)
    assert main([*PUSH, "--output_dir", str(tmp_path / "run")]) == 75
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_on_a_terminal_a_yes_publishes_and_an_existing_or_private_repository_is_not_asked_for(
    hub, tmp_path: Path, typing, capsys
):
    typing(b"y\n")
    assert main([*PUSH, "--output_dir", str(tmp_path / "first")]) == 0
    assert not hub.storage.repos["models", "alice/digits"].private
    assert main([*PUSH, "--output_dir", str(tmp_path / "second")]) == 0  # nobody types now
    private = [*PUSH[:-1], "alice/own", "--hub_private_repo", "--output_dir", str(tmp_path / "third")]
    assert main(private) == 0
    assert capsys.readouterr().err.count("will be public") == 1


def test_a_run_that_cannot_be_published_is_finished_and_says_how_to_try_again(hub, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    hub.fail("POST .*/commit/", status=403, times=99)
    push = ["--push_to_hub", "--hub_model_id", "alice/digits"]
    assert main([*TINY, "--max_train_steps", "1", *push, "--output_dir", str(folder)]) == 1
    assert "resnet-hub push" in capsys.readouterr().err
    assert RunReport.load(folder / "report.json").train.steps == 1
    assert resnet_hub.load(folder).num_classes == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "is_private"), [([], True), (["--hub_public_repo"], False), (["--hub_private_repo"], True)]
)
def test_where_nobody_can_be_asked_a_new_repository_is_private_unless_told(
    hub, words: list[str], is_private: bool, tmp_path: Path, capsys
):
    assert main([*PUSH, *words, "--output_dir", str(tmp_path / "first")]) == 0
    assert hub.storage.repos["models", "alice/digits"].private == is_private
    assert ("nobody could be asked" in capsys.readouterr().err) == (not words)
    assert main([*PUSH, "--output_dir", str(tmp_path / "again")]) == 0
    assert "nobody could be asked" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["alice/a/b", "alice/two words"])
def test_a_repository_that_cannot_be_is_refused_before_training(hub, name, tmp_path: Path, capsys):
    push = ["--push_to_hub", "--hub_model_id", name]
    assert main([*TINY, *push, "--output_dir", str(tmp_path / "run")]) == 2
    assert "--hub_model_id" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_a_start_for_other_classes(finished, photo_folder: Path, tmp_path: Path):
    folder, _ = finished
    arguments = ["--model", folder / "export", "--train_dir", photo_folder / "train", "--test_fraction", "0"]
    arguments += ["--fit_fc_first", "False", "--image_size", "16", "--max_train_steps", "3"]
    arguments += ["--output_dir", tmp_path / "run"]
    assert main([str(argument) for argument in arguments]) == 0
    before, after = (load_file(run / "export/model.safetensors") for run in (folder, tmp_path / "run"))
    assert before["fc.weight"].shape == (10, 64)
    assert after["fc.weight"].shape == (3, 64)
    changed = float((before["conv1.weight"] - after["conv1.weight"]).abs().max())
    assert 0 < changed < 0.01  # the backbone was kept and trained a little


def test_a_folder_with_foreign_files_is_refused(tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*TINY, "--output_dir", str(tmp_path)]) == 2
    assert "holds no run of ours" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_train_dir_names_what_is_there(photo_folder: Path, tmp_path: Path, capsys):
    assert main(["--train_dir", str(photo_folder / "trian"), "--output_dir", str(tmp_path / "run")]) == 2
    assert "train" in capsys.readouterr().err


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, capsys):
    assert main([*TINY, "--output_dir", str(tmp_path / "run"), "--dry_run"]) == 0
    shown = capsys.readouterr().err
    assert "1,257 images" in shown
    assert "new fc for 10 classes" in shown
    assert not (tmp_path / "run").exists()


def test_print_config_can_be_read_back(tmp_path: Path, capsys):
    assert main(["--dataset_name", "digits", "--learning_rate", "3e-4", "--print_config"]) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "c.yaml")["learning_rate"] == 3e-4


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_are_harmed(tmp_path: Path):
    folder = tmp_path / "run"
    rate = ("--learning_rate", "1e18", "--warmup_steps", "0", "--num_train_epochs", "1")
    done = run_command(finetune_command(*TINY, *rate, "--output_dir", folder))
    assert done.returncode == 1
    assert "lower --learning_rate" in done.stderr
    assert not (folder / "report.json").exists()
    assert not list((folder / "checkpoints").glob("step-*"))


def test_a_run_that_ends_by_the_clock_is_a_finished_run(tmp_path: Path):
    folder = tmp_path / "run"
    assert (
        main([*TINY, "--num_train_epochs", "400", "--max_minutes", "0.05", "--output_dir", str(folder)]) == 0
    )
    report = RunReport.load(folder / "report.json")
    assert 0 < report.train.steps < 400 * 10
    assert report.train.seconds < 30


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_time_was_up_goes_straight_to_its_report(tmp_path: Path):
    folder = tmp_path / "run"
    arguments = [*TINY, "--num_train_epochs", "400", "--max_minutes", "0.05", "--output_dir", str(folder)]
    assert main(arguments) == 0
    steps = RunReport.load(folder / "report.json").train.steps
    (folder / "report.json").unlink()  # as a kill during the last evaluation leaves it
    assert main(arguments) == 0
    assert RunReport.load(folder / "report.json").train.steps == steps


def test_a_tracker_gets_the_numbers_and_the_run_still_evaluates(tmp_path: Path):
    folder = tmp_path / "run"
    arguments = [*TINY, "--max_train_steps", "10", "--report_to", "tensorboard", "--output_dir", str(folder)]
    assert main(arguments) == 0
    assert list(folder.rglob("events.out.tfevents.*"))
    assert RunReport.load(folder / "report.json").test is not None


def test_a_network_that_is_no_resnet_is_refused_before_it_is_built(tmp_path: Path, capsys):
    arguments = ["--dataset_name", "digits", "--model", "vit_tiny_patch16_224", "--no-pretrained"]
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    assert "is not a ResNet" in capsys.readouterr().err


@pytest.mark.slow
def test_help_lists_every_flag_and_ends_with_0():
    done = subprocess.run(finetune_command("--help"), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for flag in ("--dataset_name", "--model_name_or_path", "--resume", "--max_minutes", "--pretrained"):
        assert flag in done.stdout
