"""The command line: a table of verbs, answers for people and programs, and help with mistakes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from resnet_hub.cli.main import main
from resnet_hub.models.my_resnet import VARIANTS
from resnet_hub.models.packaged_weights import PACKAGED
from resnet_hub.models.published_weights import WEIGHTS

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
