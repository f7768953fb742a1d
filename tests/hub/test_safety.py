"""What comes from outside cannot run code, leave its folder, fill the memory, or learn a token."""

import ast
import json
import logging
import os
import random
import struct
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import resnet_hub
from resnet_hub.cards.edits import with_edits
from resnet_hub.downloads.access import redact
from resnet_hub.downloads.download import download
from resnet_hub.errors import HubError, UserError
from resnet_hub.hub import load, push_folder
from tests.hub_server import HubServer
from tests.hub_server.fixtures import NAMES, REPO

pytest_plugins = ["tests.hub_server.fixtures"]

PACKAGE = Path(resnet_hub.__file__).parent

UNSAFE_NAMES = [
    "../escaped.txt",
    "../../escaped.txt",
    "/etc/escaped.txt",
    "a/../../escaped.txt",
    "..\\escaped.txt",
    "a\\..\\..\\escaped.txt",
    "C:\\escaped.txt",
    "C:escaped.txt",
    "a//escaped.txt",
    "./escaped.txt",
    "a/./escaped.txt",
    "escaped.txt.",
    "escaped.txt ",
    "esca\nped.txt",
    "esca\x00ped.txt",
    "\u202etxt.escaped",
    "x" * 300,
]


class _Marker:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def with_config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.pt", "weights.ckpt", "model.pkl"])
def test_a_pickle_is_refused_by_name_and_never_opened(folder, tmp_path, name):
    marker = tmp_path / "was opened"
    (folder / "model.safetensors").unlink()
    torch.save({"conv1.weight": _Marker(marker)}, folder / name)
    with pytest.raises(HubError, match=f"only there as a pickle.*{name}"):
        load(folder)
    assert not marker.exists()


def test_a_pickle_that_calls_itself_safetensors_is_not_unpickled(folder, tmp_path):
    marker = tmp_path / "was opened"
    torch.save({"conv1.weight": _Marker(marker)}, folder / "model.safetensors")
    with pytest.raises(HubError, match="damaged"):
        load(folder)
    assert not marker.exists()


def test_a_repository_with_only_a_pickle_is_refused(hub: HubServer, folder, tmp_path):
    repo = hub.storage.create("models", REPO)
    config = hub.storage.put((folder / "config.json").read_bytes())
    pickle = hub.storage.put(b"\x80\4.", large=True)
    hub.storage.commit(repo, "main", "x", add={"config.json": config, "pytorch_model.bin": pickle})
    with pytest.raises(HubError, match=r"has no file 'model\.safetensors'"):
        load(REPO)
    assert not any("/lfs/" in seen.path for seen in hub.seen)


@pytest.mark.parametrize("name", UNSAFE_NAMES, ids=range(len(UNSAFE_NAMES)))
def test_a_file_name_that_could_leave_its_folder_is_refused(hub: HubServer, folder, tmp_path, name):
    repo = hub.storage.create("models", REPO)
    files = {"config.json": hub.storage.put((folder / "config.json").read_bytes())}
    hub.storage.commit(repo, "main", "x", add={**files, name: hub.storage.put(b"x")})
    with pytest.raises(HubError, match="not safe to write"):
        download(REPO)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/etc/escaped.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system", "resnet_hub": {}}, "asks for the architecture 'os.system'"),
        ({"architecture": "my_resnet51", "resnet_hub": {}}, "did you mean .*'my_resnet50'"),
        ({"architecture": ["resnet18"], "resnet_hub": {}}, "not a name"),
        ({"architecture": "hf-hub:evil/model", "resnet_hub": {}}, "asks for the architecture"),
        ({"model_args": {"block": "os.system"}}, "sets the model option 'block'"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "sets the model option 'checkpoint_path'"),
        ({"model_args": {"pretrained_cfg": {"file": "x"}}}, "sets the model option 'pretrained_cfg'"),
        ({"model_args": {"in_chans": 10**9}}, "sets 'in_chans' to 1000000000"),
        ({"model_args": {"in_chans": True}}, "sets 'in_chans'"),
        ({"model_args": {"global_pool": {"a": 1}}}, "sets 'global_pool'"),
        ({"model_args": {"act_layer": "__import__('os')"}}, "sets 'act_layer'"),
        ({"model_args": ["in_chans"]}, "should be an object"),
        ({"num_classes": 10**18}, "not a number of classes"),
        ({"num_classes": -1}, "not a number of classes"),
        ({"num_classes": "10"}, "not a number of classes"),
        ({"num_classes": 999_999, "label_names": None}, "does not fit the architecture"),
        ({"label_names": NAMES[:3]}, "names 3 classes"),
        ({"label_names": [1] * 10}, "not a text"),
        ({"label_names": ["x" * 10_000] * 10}, "not a text"),
        ({"pretrained_cfg": None}, "should be an object"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "sets 'input_size'"),
        ({"pretrained_cfg": {"mean": ["a", "b", "c"]}}, "sets 'mean'"),
        ({"pretrained_cfg": {"interpolation": "os.system"}}, "sets 'interpolation'"),
        ({"pretrained_cfg": {"crop_pct": 1e30}}, "sets 'crop_pct'"),
        ({"resnet_hub": "my_resnet20"}, "should be an object"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_hostile_config_is_refused_at_once_with_what_is_wrong_in_it(folder, changes, message):
    start = time.monotonic()
    with pytest.raises(HubError, match=message) as error:
        load(with_config(folder, **changes))
    assert time.monotonic() - start < 1
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        "null",
        "[1]",
        "{",
        '{"num_classes": ' + "9" * 5000 + "}",
        '{"pretrained_cfg": {"mean": [NaN, NaN, NaN]}, "architecture": "my_resnet20", "num_classes": 10}',
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\xff\xfe\0\0",
        b" " * (9 * 2**20),
    ],
    ids=["deep", "deep2", "empty", "null", "list", "cut", "digits", "nan", "surrogate", "binary", "large"],
)
def test_what_is_not_a_config_is_refused_within_a_second(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(HubError, match=r"config\.json"):
        load(folder)
    assert time.monotonic() - start < 1


def test_a_config_cannot_name_files_addresses_or_loaders(folder):
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {
        "url": "http://evil.example/x.pth",
        "file": "/etc/passwd",
        "hf_hub_id": "evil/model",
        "hf_hub_filename": "evil.bin",
        "custom_load": True,
        "state_dict": {"a": 1},
    }
    model = load(with_config(folder, **config))
    assert not {"url", "file", "hf_hub_id", "hf_hub_filename", "state_dict"} & model.pretrained_cfg.keys()
    assert not model.pretrained_cfg.get("custom_load")


def test_a_file_cut_anywhere_is_called_damaged(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for part in range(16):
        path.write_bytes(content[: len(content) * part // 16])
        with pytest.raises(HubError, match=r"damaged|does not fit"):
            load(folder)


def test_flipped_bits_in_the_header_give_an_error_or_a_model_and_never_a_crash(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    generator = random.Random(0)
    start = time.monotonic()
    refused = 0
    for _ in range(100):
        changed = bytearray(content)
        changed[generator.randrange(8 + length)] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        try:
            load(folder)
        except HubError:
            refused += 1
    assert refused > 60
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 17) + b'{"a":{"shape":-1}',
    ],
    ids=["all ones", "terabyte", "null", "deep", "not JSON"],
)
def test_a_hostile_header_is_refused_before_memory_is_spent(folder, header):
    (folder / "model.safetensors").write_bytes(header + b"\0" * 64)
    with pytest.raises(HubError, match="damaged"):
        load(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_are_not_exactly_the_networks_are_refused_with_their_names(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if change == "missing":
        del tensors["layer3.0.conv1.weight"]
    elif change == "extra":
        tensors["evil.weight"] = torch.zeros(3)
    else:
        tensors["fc.weight"] = torch.zeros(11, 64)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(HubError, match=r"does not fit the architecture.*weight"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    tensors["fc.weight"][3, 5] = value
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(HubError, match=r"NaN or infinity.*fc\.weight"):
        load(folder)


@pytest.mark.parametrize(
    "head",
    [
        "a: !!python/object/apply:os.system ['touch /escaped']",
        "a: &x [1]\nb: [*x, *x]",
        "a: 1\na: 2",
        "a: [" * 5000,
        "- just\n- a list",
        "a: " + "x" * (2**20 + 1),
    ],
    ids=["python", "alias", "twice", "deep", "list", "large"],
)
def test_hostile_metadata_of_a_card_is_refused_within_a_second(head):
    start = time.monotonic()
    with pytest.raises(HubError, match=r"README\.md of somewhere"):
        with_edits("# fresh\n", edited=f"---\n{head}\n---\n\ntext", generated=None, source="somewhere")
    assert time.monotonic() - start < 1
    assert not Path("/escaped").exists()


def test_the_token_is_in_nothing_that_a_push_a_load_or_their_failures_write(
    hub: HubServer, folder, *, tmp_path, monkeypatch, caplog, capfd
):
    canary = "hf_" + "CaNaRy" * 5
    hub.tokens[canary] = "alice"
    monkeypatch.setenv("HF_TOKEN", canary)
    caplog.set_level(logging.DEBUG)
    said = []
    for where, how in [
        ("PUT /lfs", {"status": 507}),
        ("POST .*/commit/", {"status": 400}),
        ("POST .*/preupload/", {"status": 401}),
        ("POST .*/preupload/", {"status": 403}),
    ]:
        hub.fail(where, **how)
        with pytest.raises(UserError) as error:
            push_folder(folder, REPO)
        said.append(str(error.value))
        hub.faults.clear()
    record = push_folder(folder, REPO)
    load(REPO)
    hub.storage.repos["models", REPO].gated = True
    hub.storage.repos["models", REPO].repo_id = "somebody/else"
    with pytest.raises(HubError) as error:
        load(REPO, revision="other", cache_dir=tmp_path / "other")
    said += [str(error.value), repr(record), caplog.text, *capfd.readouterr()]
    assert all(canary not in text for text in said)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert all(canary.encode() not in path.read_bytes() for path in written)


def test_a_signed_address_in_an_error_is_made_unreadable():
    text = redact("GET https://store/x?X-Amz-Signature=abcdef&X-Amz-Credential=me and hf_" + "a1" * 17)
    assert "abcdef" not in text
    assert "a1a1" not in text


def calls_in_package() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_the_package_calls_nothing_that_runs_what_it_reads():
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system", "torch.load"}
    found = []
    for place, call in calls_in_package():
        name = ast.unparse(call.func)
        options = {option.arg: ast.unparse(option.value) for option in call.keywords if option.arg}
        safe_torch_load = name == "torch.load" and options.get("weights_only") == "True"
        if (name in forbidden and not safe_torch_load) or name.endswith(".extractall"):
            found.append(f"{place} {name}")
        if options.get("weights_only") == "False" or options.get("shell") == "True":
            found.append(f"{place} {ast.unparse(call)}")
    assert found == []
