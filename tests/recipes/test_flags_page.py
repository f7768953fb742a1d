"""The page of flags is that of the parsers, and the shells complete what it lists."""

import subprocess
from pathlib import Path

import pytest

from recipes.flags_page import updated
from resnet_hub.cli.main import VERBS, main
from resnet_hub.finetuning.config.options import FIELD_NAMES

PAGE = Path(__file__).parents[2] / "recipes/README.md"


def test_the_page_of_flags_is_up_to_date():
    text = PAGE.read_text()
    command = "python recipes/flags_page.py recipes/README.md"
    assert text == updated(text, PAGE.parent), f"the flags have changed; type: {command}"


def test_the_page_has_every_verb_and_every_option_of_a_run():
    text = PAGE.read_text()
    assert all(f"### resnet-hub {verb}\n" in text for verb in VERBS)
    assert all(f"`--{name}" in text for name in FIELD_NAMES)
    assert "### benchmark_inference.py" in text


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
