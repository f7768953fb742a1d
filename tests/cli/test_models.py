"""The command line: a table of verbs, answers for people and programs, and help with mistakes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants

from resnet_hub.cli.main import main
from resnet_hub.hub import save_folder
from resnet_hub.models.my_resnet import VARIANTS
from resnet_hub.models.packaged_weights import PACKAGED
from resnet_hub.models.published_weights import WEIGHTS
from tests.cards.test_model_card import NAMES, report
from tests.hub_server.fixtures import publish, weights_of

pytest_plugins = ["tests.hub_server.fixtures"]

OWN_VARIANT = """
from resnet_hub.models.my_resnet import register_variant
from resnet_hub.models.variant import Variant

register_variant("my_few_lines", Variant(block="basic", depths=(1, 1), widths=(8, 16), stem="conv3"))
"""


def test_list_names_every_variant(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} >= set(VARIANTS)


def test_list_gives_programs_json_that_matches_the_pattern(capsys):
    assert main(["list", "my_resnext*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} == {name for name in VARIANTS if name.startswith("my_resnext")}
    assert rows[0]["parameters"] == 25_028_904  # torchvision's num_params of resnext50_32x4d


def test_list_pretrained_shows_every_tag_with_its_licence(capsys):
    assert main(["list", "--pretrained", "--json"]) == 0
    rows = {row["weights"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {f"my_{name}" for name in WEIGHTS | PACKAGED}
    bound = rows["my_resnet50.fb_swsl_ig1b_ft_in1k"]
    assert (bound["licence"], bound["commercial_use"]) == ("cc-by-nc-4.0", False)


def test_info_shows_source_licence_and_accuracy_of_a_tag(capsys):
    assert main(["info", "my_resnet50.a1_in1k"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "25557032",
        "apache-2.0",
        "81.24",
        "288",
        "huggingface.co/timm/resnet50.a1_in1k",
        "2110.00476",
    ):
        assert text in shown


def test_info_of_a_variant_without_weights_says_so(capsys):
    assert main(["info", "my_resnet32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default_weights"] is None


def test_weights_in_the_package_are_listed_as_such(capsys):
    assert main(["list", "my_resnet20", "--pretrained", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["source"], row["licence"]) == ("in the package", "apache-2.0")
    assert main(["info", row["weights"]]) == 0
    shown = capsys.readouterr().out
    assert "in the package" in shown
    assert "huggingface.co" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infoo"], "did you mean 'info'"),
        (["info", "my_resnet51"], "did you mean.*'my_resnet50'"),
        (["info", "my_resnet50.a11_in1k"], "did you mean 'my_resnet50.a1_in1k'"),
        (["list", "--pretraind"], "did you mean '--pretrained'"),
        (["list", "vit*"], "No model matches"),
        (["info"], "required: model"),
        (["check", "my_resnet20", "--import", "no_such_module"], "Cannot import"),
    ],
)
def test_a_mistake_is_exit_code_2_and_a_message_that_helps(capsys, arguments, message):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.search(message, output.err)


def test_check_of_a_users_own_file_gives_a_verdict_for_each_part(tmp_path, capsys):
    (tmp_path / "own_variant.py").write_text(OWN_VARIANT)
    assert main(["check", "my_few_lines", "--import", str(tmp_path / "own_variant.py"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 9
    assert {row["verdict"] for row in rows} == {"ok"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], ["predict"]),
        (["validate", "--image_"], ["--image_column_name", "--image_size"]),
        (["finetune", "--warm"], ["--warmup_steps"]),
        (["validate", "--tta", ""], ["flip", "none"]),
    ],
    ids=str,
)
def test_bash_completes_verbs_flags_and_choices(
    words: list[str], expected: list[str], tmp_path: Path, capsys
):
    assert main(["--print-completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    typed = " ".join(f"'{word}'" for word in ["resnet-hub", *words])
    # The function has to run in this shell, whose COMPREPLY it fills.
    code = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
        "name=$(complete -p resnet-hub | sed -E 's/.*-F ([^ ]+) .*/\\1/'); $name; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert sorted(set(done.stdout.split())) == expected


def test_zsh_gets_a_script_of_its_own_and_another_shell_is_refused(capsys):
    assert main(["--print_completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef resnet-hub")
    assert main(["--print_completion", "fish"]) == 2
    assert "invalid choice" in capsys.readouterr().err


def test_info_tells_what_a_repository_is_and_leaves_its_weights_there(hub, exported, capsys):
    model, folder = exported
    commit = publish(hub, folder)
    for name in ("alice/digits", "alice/digits@main", "hf-hub:alice/digits"):
        assert main(["info", name, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["network"], found["classes"], found["commit"]) == ("my_resnet20", 10, commit)
        assert found["parameters"] == sum(weight.numel() for weight in model.parameters())
        assert found["class_names"] == [str(number) for number in range(10)]
        size = (folder / "model.safetensors").stat().st_size
        assert found["weights"] == f"model.safetensors, {size / 1e6:.1f} MB"
        assert found["address"] == f"{hub.url}/alice/digits"
    assert not weights_of(constants.HF_HUB_CACHE)
    assert main(["info", "alice/digits"]) == 0
    assert f"{hub.url}/alice/digits" in capsys.readouterr().out


def test_info_of_a_folder_says_the_same_and_its_scores(tmp_path: Path, hub, capsys):
    model = timm.create_model("my_resnet20", num_classes=3)
    save_folder(model, tmp_path / "pets", class_names=NAMES, report=report(base_license="mit"))
    publish(hub, tmp_path / "pets", "alice/pets")
    found = []
    for name in (str(tmp_path / "pets"), "alice/pets"):
        assert main(["info", name, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1] == found[1] | found[0] | {"model": "alice/pets"}
    assert (found[0]["license"], found[0]["test_accuracy"]) == ("mit", 0.9533)
    assert (found[0]["dataset"], found[0]["base_model"]) == ("timm/oxford-iiit-pet", "timm/resnet50.a1_in1k")


def test_info_of_a_repository_with_a_pickle_alone_says_so(hub, exported, capsys):
    config = (exported[1] / "config.json").read_bytes()
    files = {"config.json": hub.storage.put(config), "pytorch_model.bin": hub.storage.put(b"\x80\4.")}
    hub.storage.commit(hub.storage.create("models", "alice/pickled"), "main", "publish", add=files)
    assert main(["info", "alice/pickled"]) == 0
    assert "a pickle only (pytorch_model.bin)" in capsys.readouterr().out


def test_info_of_a_repository_that_is_not_there_or_no_model_of_timm_is_bad_input(hub, capsys):
    text = hub.storage.create("models", "alice/text")
    hub.storage.commit(text, "main", "publish", add={"config.json": hub.storage.put(b"{}")})
    for name, message in (("alice/nothing", "alice/nothing"), ("alice/text", "config.json of a timm model")):
        assert main(["info", name]) == 2
        assert message in capsys.readouterr().err


def test_info_of_a_pickle_says_what_to_do_with_it_and_a_model_goes_before_a_folder_of_its_name(
    exported, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "own.pth"]) == 2
    assert "is a pickle" in capsys.readouterr().err
    shutil.copytree(exported[1], tmp_path / "my_resnet50")
    for name, parameters in (("my_resnet50", 25_557_032), ("./my_resnet50", 269_722)):
        assert main(["info", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == parameters
