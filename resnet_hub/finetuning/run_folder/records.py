"""What a resumed run needs to know of its beginning: in files for people, and copied into each checkpoint."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet_hub.errors import ConfigError, UserError
from resnet_hub.files import write_atomically
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import load_config, options_from_mapping, plain_values
from resnet_hub.finetuning.run_folder.checkpoint import has_checkpoints, newest_values

logger = logging.getLogger(__name__)


def read_records(config: Path, environment: Path, checkpoints: Path) -> dict[str, Any]:
    """`config` and `environment` of the run as it began; empty where none has.

    Those in the newest checkpoint count. Raises ConfigError, with what to do, where it has none and a file is
    damaged.
    """
    if kept := newest_values(checkpoints).get("records"):
        return kept
    if not config.exists() and not has_checkpoints(checkpoints):
        return {}
    file = config
    try:
        if not (options := load_config(config)):
            raise ConfigError("it is empty")
        file = environment
        found = json.loads(environment.read_text(encoding="utf-8"))
        if not all(isinstance(found[part], dict) for part in ("facts", "machine", "versions")):
            raise ConfigError("it has another shape")
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is missing or damaged, and no checkpoint has a copy ({error}). Put it back from a "
            f"backup, or name another --output_dir."
        ) from error
    plain = plain_values(FinetuneConfig(**options))
    return {"config": {name: plain[name] for name in options}, "environment": found}


def config_of(records: Mapping[str, Any]) -> FinetuneConfig:
    """The configuration that records hold."""
    return FinetuneConfig(**options_from_mapping(records["config"], source="the run's configuration"))


def write_records(records: Mapping[str, Any], config: Path, environment: Path, *, again: bool) -> None:
    """Write both files where they are not so yet, with a warning if they were written before."""
    texts = {
        environment: json.dumps(records["environment"], indent=2, ensure_ascii=False) + "\n",
        config: yaml.safe_dump(records["config"], sort_keys=False, allow_unicode=True),
    }
    for path, text in texts.items():
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        write_atomically(path, text)
        if again:
            logger.warning("%s was missing or damaged; it is made again.", path)
