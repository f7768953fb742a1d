"""Whatever accelerate can be set to is done or refused by name; a new setting of a new release fails here."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import accelerate
import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.machine.accelerate_settings import HONORED, is_known, refuse_other_settings

from ..conftest import TINY, finetune_command, run_command

SOURCES = sorted(
    path for path in Path(accelerate.__file__).parent.rglob("*.py") if "test_utils" not in path.parts
)
VARIABLES = sorted(
    {name for path in SOURCES for name in re.findall(r"ACCELERATE_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
)


def test_every_variable_that_accelerate_reads_or_writes_is_known():
    assert len(VARIABLES) > 30
    assert [name for name in VARIABLES if not is_known(name)] == []


@pytest.mark.parametrize("name", [name for name in VARIABLES if name not in HONORED])
def test_a_variable_that_is_not_honored_is_refused_by_name(name: str):
    with pytest.raises(ConfigError, match=f"{name} is 4"):
        refuse_other_settings({name: "4"})


@pytest.mark.parametrize("value", ["1", "no", "false", ""])
def test_a_setting_that_asks_for_nothing_is_not_refused(value: str):
    refuse_other_settings({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": value})


def test_a_variable_that_nobody_knows_is_named(caplog: pytest.LogCaptureFixture):
    refuse_other_settings({"ACCELERATE_MIXED_PRECISON": "bf16"})
    assert "ACCELERATE_MIXED_PRECISON is not known here" in caplog.text


def launched_with(*words: str) -> dict[str, str]:
    """The variables that `accelerate launch` gives the processes that it starts."""
    args = launch_command_parser().parse_args([*words, "script.py"])
    args, defaults, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config if defaults else ())
        return prepare_deepspeed_cmd_env(args)[1]
    if args.multi_gpu or args.use_fsdp or args.use_megatron_lm:
        return prepare_multi_gpu_env(args)
    return prepare_simple_launcher_cmd_env(args)[1]


# Of `accelerate launch`: words, and the variable that is refused; None where it is done.
LAUNCHES: dict[tuple[str, ...], str | None] = {
    ("--cpu",): None,
    ("--cpu", "--mixed_precision", "bf16", "--debug", "--enable_cpu_affinity"): None,
    ("--multi_gpu", "--num_processes", "2", "--gpu_ids", "0,1"): None,
    ("--gradient_accumulation_steps", "4"): None,  # accelerate itself hands it on to DeepSpeed only
    ("--gradient_clipping", "1"): None,
    (
        "--use_deepspeed",
        "--gradient_accumulation_steps",
        "4",
    ): "ACCELERATE_CONFIG_DS_FIELDS|ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    ("--use_fsdp",): "ACCELERATE_USE_FSDP",
    ("--use_megatron_lm",): "ACCELERATE_USE_MEGATRON_LM",
    ("--use_fsdp", "--fsdp_version", "2", "--use_parallelism_config"): "ACCELERATE_USE_FSDP",
    ("--dynamo_backend", "inductor"): "ACCELERATE_DYNAMO_BACKEND",
    ("--dynamo_mode", "max-autotune"): "ACCELERATE_DYNAMO_MODE",
    ("--dynamo_use_fullgraph",): "ACCELERATE_DYNAMO_USE_FULLGRAPH",
    ("--dynamo_use_dynamic",): "ACCELERATE_DYNAMO_USE_DYNAMIC",
    ("--dynamo_use_regional_compilation",): "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
    ("--cpu", "--num_processes", "2"): "asked for several processes and started one",
}


@pytest.mark.parametrize("words", LAUNCHES, ids=" ".join)
def test_what_accelerate_launch_asks_for_is_done_or_refused(
    words: tuple[str, ...],
):
    check(launched_with(*words), LAUNCHES[words])


def check(variables: dict[str, str], refused: str | None) -> None:
    if refused is None:
        refuse_other_settings(variables)
    else:
        with pytest.raises(ConfigError, match=refused):
            refuse_other_settings(variables)


# Words of the launcher: what starts processes, and what is only for an engine that is refused as a whole.
STARTS = (
    "help config_file quiet cpu multi_gpu num_processes num_machines num_cpu_threads_per_process gpu_ids",
    "same_network machine_rank main_process_ip main_process_port tee log_dir role rdzv_backend rdzv_conf",
    "max_restarts monitor_interval module no_python main_training_function debug mpirun_hostfile",
    "training_script training_script_args mixed_precision enable_cpu_affinity",
)
ENGINES = (
    "use_deepspeed use_fsdp use_megatron_lm use_parallelism_config tpu fsdp_ megatron_lm_ fp8_ dynamo_",
    "parallelism_config_ deepspeed_ vm env downcast_bf16 zero_stage zero3_ offload_ gradient_ aws_",
)


def test_every_word_of_accelerate_launch_has_a_place_here():
    words = {action.dest for action in launch_command_parser()._actions}
    of_engines = tuple(" ".join(ENGINES).split())
    assert {word for word in words if not word.startswith(of_engines)} <= set(" ".join(STARTS).split())


# Fields of `accelerate config`: a value, and the variable that is refused; None where it is done.
BASE = {"distributed_type": "NO", "use_cpu": True, "num_processes": 1, "mixed_precision": "no"}
FSDP = {"distributed_type": "FSDP", "use_cpu": False, "num_processes": 2}
FIELDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "distributed_type": ({"distributed_type": "MULTI_GPU", "use_cpu": False, "num_processes": 2}, None),
    "mixed_precision": ({"mixed_precision": "bf16"}, None),
    "use_cpu": ({"use_cpu": False}, None),
    "debug": ({"debug": True}, None),
    "enable_cpu_affinity": ({"enable_cpu_affinity": True}, None),
    "num_processes": ({"num_processes": 2}, "asked for several processes and started one"),
    "gpu_ids": ({"gpu_ids": "0"}, None),
    "dynamo_config": ({"dynamo_config": {"dynamo_mode": "max-autotune"}}, "ACCELERATE_DYNAMO_MODE"),
    "deepspeed_config": (
        {"distributed_type": "DEEPSPEED", "deepspeed_config": {"gradient_accumulation_steps": 4}},
        "ACCELERATE_CONFIG_DS_FIELDS",
    ),
    "fsdp_config": (FSDP | {"fsdp_config": {"fsdp_version": 2}}, "ACCELERATE_USE_FSDP"),
    "megatron_lm_config": (
        FSDP | {"distributed_type": "MEGATRON_LM", "megatron_lm_config": {"megatron_lm_tp_degree": 2}},
        "ACCELERATE_USE_MEGATRON_LM",
    ),
    "parallelism_config": (
        FSDP
        | {
            "fsdp_config": {"fsdp_version": 2},
            "parallelism_config": {"parallelism_config_dp_shard_size": 2},
        },
        "ACCELERATE_USE_FSDP",
    ),
}
# How to find the other processes, which is for the launcher alone; what only TPUs, MPI or float8 have, whose
# launchers are not installed here and whose variables are refused above; and SageMaker.
FOR_THE_LAUNCHER = (
    "machine_rank num_machines main_process_ip main_process_port rdzv_backend same_network mpirun_config",
    "main_training_function fp8_config downcast_bf16 tpu_name tpu_zone tpu_use_cluster tpu_use_sudo",
    "command_file commands tpu_vm tpu_env compute_environment",
)


def test_every_field_of_accelerate_config_has_a_place_here():
    assert {field.name for field in fields(ClusterConfig)} == {*FIELDS, *" ".join(FOR_THE_LAUNCHER).split()}


@pytest.mark.parametrize("field", FIELDS)
def test_what_accelerate_config_asks_for_is_done_or_refused(field: str, tmp_path: Path):
    values, refused = FIELDS[field]
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(BASE | values))
    check(launched_with("--config_file", str(file)), refused)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps after the recipe"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend no"),
        ("ACCELERATE_USE_FSDP", "true", "accelerate launch --multi_gpu"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision bf16"),
    ],
)
def test_a_run_refuses_before_anything_is_written(variable: str, value: str, advice: str, tmp_path: Path):
    done = run_command(finetune_command(*TINY, "--output_dir", tmp_path / "run"), **{variable: value})
    assert done.returncode == 2, done.stderr
    assert f"{variable} is {value}" in done.stderr
    assert advice in done.stderr
    assert not (tmp_path / "run").exists()
