"""What `accelerate launch`, `accelerate config` and ACCELERATE_* variables ask for: done, or refused."""

import logging
import os
from collections.abc import Mapping

from resnet_hub.errors import ConfigError

logger = logging.getLogger(__name__)

HONORED = {
    "ACCELERATE_USE_CPU",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_CPU_AFFINITY",
    "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_DEBUG_RDV_FILE",
    "ACCELERATE_LOG_LEVEL",
    "ACCELERATE_ENABLE_RICH",
    # About networks that are loaded in parts, which none is here.
    "ACCELERATE_BYPASS_DEVICE_MAP",
    "ACCELERATE_INIT_INCLUDE_BUFFERS",
}

_WHOLE = (
    "Every process here has the whole network, for which ResNets are small enough: type `accelerate launch "
    "--multi_gpu`, or set it so in `accelerate config`."
)
_COMPILE = (
    "Checkpoints here know the network as it is: type `--dynamo_backend no` after `accelerate launch`, and "
    "--torch_compile after the recipe."
)
_TPU = "Runs compute on CPUs and GPUs: unset it."
_SAGEMAKER = "In SageMaker, start the recipe as a training script of its own, or by torchrun: unset it."
REFUSED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "Type --gradient_accumulation_steps after the recipe instead.",
    "ACCELERATE_GRADIENT_CLIPPING": "Type --max_grad_norm after the recipe instead.",
    "ACCELERATE_TORCH_DEVICE": "Choose GPUs by CUDA_VISIBLE_DEVICES, or the CPU by ACCELERATE_USE_CPU=true.",
    "ACCELERATE_NUM_PROCESSES": "Type --num_processes after `accelerate launch` instead.",
    "ACCELERATE_DYNAMO_": _COMPILE,
    "ACCELERATE_FP8_": "ResNets are trained in float32, bf16 or fp16: type --mixed_precision bf16.",
    "ACCELERATE_USE_FSDP": _WHOLE,
    "ACCELERATE_USE_DEEPSPEED": _WHOLE,
    "ACCELERATE_DEEPSPEED_": _WHOLE,
    "ACCELERATE_CONFIG_DS_FIELDS": _WHOLE,
    "ACCELERATE_USE_MEGATRON_LM": _WHOLE,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _WHOLE,
    "ACCELERATE_ALLOW_CP_STANDALONE": _WHOLE,
    "ACCELERATE_DOWNCAST_BF16": _TPU,
    "ACCELERATE_IN_TPU_POD": _TPU,
    "ACCELERATE_USE_SAGEMAKER": _SAGEMAKER,
    "ACCELERATE_SAGEMAKER_": _SAGEMAKER,
}
"""The beginnings of variables, and what to do instead."""

_OFF = {"", "0", "no", "none", "false", "default"}
_OF_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def is_known(variable: str) -> bool:
    """Whether a variable is honored or refused."""
    return variable in HONORED or variable.startswith(tuple(REFUSED))


def refuse_other_settings(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError for what accelerate was asked for and runs do not do; warn of what nobody knows."""
    for name, value in sorted(environment.items()):
        if not name.startswith("ACCELERATE_") or value.lower() in _OFF or name in HONORED:
            continue
        advice = next((REFUSED[start] for start in REFUSED if name.startswith(start)), None)
        if advice is None:
            logger.warning("%s is not known here, and may have no effect.", name)
        elif (name, value) != ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"):
            raise ConfigError(f"{name} is {value}, set by you or by `accelerate launch`. {advice}")
    if environment.get("ACCELERATE_MIXED_PRECISION") == "fp8":
        raise ConfigError(f"ACCELERATE_MIXED_PRECISION is fp8. {REFUSED['ACCELERATE_FP8_']}")
    _refuse_lost_processes(environment)


def _refuse_lost_processes(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where `accelerate launch` starts one process on a CPU, however many are asked for."""
    of_accelerate = "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment
    if of_accelerate and not any(name in environment for name in ("WORLD_SIZE", *_OF_MPI)):
        raise ConfigError(
            "`accelerate launch` was asked for several processes and started one, as it does on CPUs. Use "
            "`resnet-hub finetune --num_processes N`, or `torchrun --nproc_per_node N`."
        )
