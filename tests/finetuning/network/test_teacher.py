"""Knowledge distillation: the student hears the teacher about the classes that it means."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo

import resnet_hub
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.network.teacher import Teacher, load_teacher
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.results import RunReport

from ..conftest import TINY

DIGITS = tuple(str(digit) for digit in range(10))


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory) -> Path:
    """A network that knows the digits, trained for five epochs at 16 px from the weights in the package."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    flags = ("--dataset_name", "digits", "--model", "my_resnet20", "--image_size", "16")
    flags = (*flags, "--horizontal_flip", "0", "--learning_rate", "3e-3", "--num_train_epochs", "5")
    assert main([*flags, "--output_dir", str(folder)]) == 0
    return folder


def ours() -> Preprocessing:
    return Preprocessing.of_model(timm.create_model("my_resnet20", num_classes=10)).at_size(16)


def loaded(name: str | Path, class_names: tuple[str, ...] = DIGITS) -> Teacher:
    teacher = load_teacher(str(name), class_names=class_names, multi_label=False, ours=ours())
    assert teacher is not None
    return teacher


def test_the_teacher_answers_in_the_students_order_of_classes(teacher_run: Path):
    images = torch.randn(4, 3, 16, 16)
    straight, turned = loaded(teacher_run), loaded(teacher_run, DIGITS[::-1])
    torch.testing.assert_close(turned(images), straight(images).flip(1))
    torch.testing.assert_close(straight(images), resnet_hub.load(teacher_run)(images).detach())


def test_a_teacher_with_another_normalisation_sees_the_same_picture(teacher_run: Path, tmp_path: Path):
    folder = shutil.copytree(teacher_run / "export", tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "config.json").write_text(json.dumps(config))
    teacher = loaded(folder)
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = resnet_hub.load(folder)(Preprocessing.of_model(teacher.network).normalize(pixels))
    torch.testing.assert_close(teacher(ours().normalize(pixels)), expected.detach(), atol=1e-4, rtol=1e-4)


def test_a_student_learns_from_its_teacher_what_its_labels_do_not_say(teacher_run: Path, tmp_path: Path):
    """With all the weight on the teacher no label is looked at, and the student still learns the classes."""
    flags = (*TINY[:4], "--no-pretrained", "--image_size", "16", "--horizontal_flip", "0", "--mixup", "0.2")
    flags = (*flags, "--num_train_epochs", "6", "--teacher_model", str(teacher_run))
    flags = (*flags, "--distillation_weight", "1", "--distillation_temperature", "2")
    assert main([*flags, "--output_dir", str(tmp_path / "student")]) == 0
    report = RunReport.load(tmp_path / "student/report.json")
    assert report.validation is not None
    assert report.validation.accuracy > 0.8
    weights = load_file(tmp_path / "student/export/model.safetensors")
    assert not torch.equal(
        weights["conv1.weight"], load_file(teacher_run / "export/model.safetensors")["conv1.weight"]
    )


def test_a_run_does_not_go_on_with_another_teacher(teacher_run: Path, tmp_path: Path, capsys):
    folder, teacher = tmp_path / "run", shutil.copytree(teacher_run / "export", tmp_path / "teacher")
    flags = (*TINY, "--teacher_model", str(teacher), "--num_train_epochs", "1", "--output_dir", str(folder))
    assert main(flags) == 0
    (folder / "report.json").unlink()
    other = timm.create_model("my_resnet20", num_classes=10)
    shutil.rmtree(teacher)
    resnet_hub.save_folder(other, teacher, class_names=DIGITS)
    assert main(flags) == 2
    assert "teacher_weights was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_resnet21", "did you mean .*my_resnet20"),
        ("my_resnet32", "has no pretrained weights"),
        ("my_resnet20", "does not know|500 classes"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(name: str, said: str):
    with pytest.raises(ConfigError, match=said):
        loaded(name)


def test_a_teacher_of_imagenet_knows_its_synsets_in_any_order_and_no_other_thousand_classes(tmp_path: Path):
    info = ImageNetInfo("imagenet-1k")
    descriptions = [str(info.index_to_description(number)) for number in range(1000)]
    network = timm.create_model("my_resnet20", num_classes=1000)
    folder = resnet_hub.save_folder(network, tmp_path / "teacher", class_names=descriptions)
    assert loaded(folder, tuple(reversed(info.label_names()))).order.tolist() == list(range(999, -1, -1))
    with pytest.raises(ConfigError, match="does not know 1000 of the 1000 classes"):
        loaded(folder, tuple(f"bird{number}" for number in range(1000)))


def test_a_teacher_that_lacks_a_class_is_refused_by_its_name(teacher_run: Path):
    with pytest.raises(ConfigError, match="eleven"):
        loaded(teacher_run, (*DIGITS[:9], "eleven"))
