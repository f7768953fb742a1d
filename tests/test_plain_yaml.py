"""YAML from outside is read within a second or refused with a reason, whatever it holds."""

import time
from pathlib import Path

import pytest

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import load_config

BOMB = "a: &a [x, x]\n" + "\n".join(f"k{i}: &k{i} [*{'a' if i == 0 else f'k{i - 1}'}]" for i in range(50))
NUMBER = "9" * 5_000
BAD = {
    "alias bomb": BOMB,
    "deep list": "seed: " + "[" * 20_000 + "]" * 20_000,
    "deep mapping": "seed: " + "{a: " * 20_000 + "}" * 20_000,
    "deep block": "seed:\n" + "\n".join(" " * (level + 1) + "a:" for level in range(300)),
    "infinite count": "seed: .inf",
    "infinite rate": "learning_rate: .inf",
    "no number": "learning_rate: .nan",
    "long number": f"seed: {NUMBER}",
    "long sexagesimal number": f"seed: {NUMBER}:00",
    "4,000 digits": f"seed: {NUMBER[:4_000]}",
    "400 digits as a rate": f"learning_rate: {NUMBER[:400]}",
    "seed beyond 64 bits": f"seed: {2**63}",
    "key twice": "seed: 1\nseed: 2",
    "Python object": "seed: !!python/object/apply:os.system ['exit 1']",
    "tag with a wrong value": "seed: !!int ''",
    "impossible date": "seed: 2001-99-99",
    "date": "seed: 2001-01-01",
    "path that is a number": "train_dir: 2024",
    "two documents": "seed: 1\n---\nseed: 2",
    "a list as a key": "? [a]\n: 1",
    "NUL": "seed: 1\0",
    "escaped NUL": 'train_dir: "a\\0b"',
    "a value of 60,000 letters": "optimizer: " + "x" * 60_000,
    "many values": "seed: [" + "a," * 30_000 + "]",
    "many keys": "\n".join(f"k{number}: 1" for number in range(6_000)),
    "latin-1": "train_dir: café".encode("latin-1"),
    "UTF-16": "seed: 1".encode("utf-16"),
    "100 MB": b"#" * 100_000_000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_configuration_that_no_run_could_use_is_refused_within_a_second(content, tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    begin = time.process_time()
    with pytest.raises(ConfigError) as refused:
        FinetuneConfig(**{"train_dir": tmp_path} | load_config(file))
    assert time.process_time() - begin < 1
    assert len(str(refused.value)) < 600 + len(str(file))


def test_a_configuration_may_come_with_a_byte_order_mark(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_bytes("seed: 3".encode("utf-8-sig"))
    assert load_config(file) == {"seed": 3}
