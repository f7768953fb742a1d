"""Model folders: whole or not at all, the same network for every client, and nothing that is not true of
it."""

import copy
import inspect
import json
import shutil
import sys
import time

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from timm.utils import ModelEmaV3

import resnet_hub
from resnet_hub.errors import HubError, ModelError
from resnet_hub.hub import save_folder, saving
from resnet_hub.hub.config_file import MODEL_ARGS, read_config
from resnet_hub.hub.loading import LoadedModel
from resnet_hub.hub.saving import answers
from resnet_hub.models.variant import ATTENTIONS, GLOBAL_POOLS, STEM_STRIDES
from tests.hub_server.fixtures import assert_same_weights

pytest_plugins = ["tests.hub_server.fixtures"]

NAMES = ["cat", "dog", "Straße | <b>x</b>"]
CLIENTS = """
import json, sys
import torch
from PIL import Image
assert "resnet_hub" not in sys.modules
image = Image.open("image.png").convert("RGB")

import timm
model = timm.create_model("local-dir:export", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True))
with torch.inference_mode():
    by_timm = model(prepare(image)[None]).softmax(-1)[0].tolist()

from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
processor = AutoImageProcessor.from_pretrained("export")
model = AutoModelForImageClassification.from_pretrained("export").eval()
with torch.inference_mode():
    by_auto = model(**processor(image, return_tensors="pt")).logits.softmax(-1)[0].tolist()
classify = pipeline("image-classification", model="export")
found = {row["label"]: row["score"] for row in classify("image.png", top_k=9)}
assert not any(name == "resnet_hub" for name in sys.modules)
print(json.dumps({"timm": by_timm, "auto": by_auto, "pipeline": found}))
"""


def small_model(name: str = "my_resnet18", **options: object) -> torch.nn.Module:
    """A model that was evaluated at 48 pixels, in a crop and with numbers of its own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(NAMES), **options).eval()
    model.pretrained_cfg |= {
        "input_size": (3, 32, 32),
        "test_input_size": (3, 48, 48),
        "crop_pct": 0.8,
        "test_crop_pct": 0.9,
        "interpolation": "bilinear",
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.25),
    }
    return model


def test_a_folder_holds_the_weights_the_config_and_the_card(tmp_path):
    folder = save_folder(small_model(), tmp_path / "export", class_names=NAMES)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "config.json", "README.md", ".resnet_hub/card.md"}
    assert list(tmp_path.iterdir()) == [folder]


def test_every_bit_comes_back_and_so_do_names_and_preprocessing(tmp_path):
    model = small_model()
    again = resnet_hub.load(save_folder(model, tmp_path / "export", class_names=NAMES))
    assert_same_weights(model, again)
    assert not again.training
    assert type(again) is type(model)
    cfg = again.pretrained_cfg
    assert cfg["label_names"] == tuple(NAMES)
    assert (cfg["input_size"], cfg["test_input_size"]) == ((3, 48, 48), (3, 48, 48))
    assert (cfg["crop_pct"], cfg["interpolation"], cfg["mean"]) == (0.9, "bilinear", (0.4, 0.5, 0.6))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_loaded_model_can_be_trained_further(tmp_path):
    model = resnet_hub.load(save_folder(small_model(), tmp_path / "export", class_names=NAMES)).train()
    model(torch.randn(2, 3, 48, 48)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    resnet_hub.load(tmp_path / "export")


def test_clients_that_never_heard_of_us_give_the_same_probabilities(tmp_path, run_python):
    model = small_model()
    save_folder(model, tmp_path / "export", class_names=NAMES)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (70, 90, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "image.png")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True))
    with torch.inference_mode():
        expected = model(prepare(Image.open(tmp_path / "image.png"))[None]).softmax(-1)[0].tolist()

    done = run_python(CLIENTS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["timm"] == pytest.approx(expected, abs=1e-6)
    assert found["auto"] == pytest.approx(expected, abs=1e-6)
    assert found["pipeline"] == pytest.approx(dict(zip(NAMES, expected, strict=True)), abs=1e-6)


def test_a_network_that_timm_has_is_exported_under_timms_name(tmp_path):
    folder = save_folder(small_model(), tmp_path / "export", class_names=NAMES)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["resnet_hub"]["variant"] == "my_resnet18"
    assert "num_classes" not in config["model_args"]
    assert "import resnet_hub  # registers" not in (folder / "README.md").read_text()


def test_a_network_of_our_own_is_exported_under_our_name_and_the_card_shows_the_import(tmp_path):
    folder = save_folder(small_model("my_resnet20"), tmp_path / "export", class_names=NAMES)
    assert json.loads((folder / "config.json").read_text())["architecture"] == "my_resnet20"
    assert "import resnet_hub  # registers my_resnet20 in timm" in (folder / "README.md").read_text()


def test_nothing_of_the_base_weights_licence_or_tag_is_claimed(tmp_path):
    folder = save_folder(small_model(), tmp_path / "export", class_names=NAMES)
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert not {"tag", "license", "url", "hf_hub_id", "origin_url", "file"} & cfg.keys()


@pytest.mark.parametrize("pool", ["avg", "catavgmax"])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_and_poolings_come_back(tmp_path, pool, channels):
    model = timm.create_model("my_resnet18", num_classes=3, in_chans=channels, global_pool=pool).eval()
    folder = save_folder(model, tmp_path / "export", class_names=NAMES)
    assert_same_weights(model, resnet_hub.load(folder))
    assert_same_weights(model, timm.create_model(f"local-dir:{folder}", pretrained=True))


# name, options, and the network of timm's that it then is, under which others load it
OPTIONS = [
    ("my_resnet50", {"anti_alias": "avg"}, "resnetaa50"),
    ("my_resnet18", {"anti_alias": "blur"}, "resnetblur18"),
    ("my_resnet18", {"stem": "deep", "shortcut": "avgpool"}, "resnet18d"),
    ("my_resnet18", {"attn": "se"}, "seresnet18"),
    ("my_seresnet18", {"attn": ""}, "resnet18"),
    ("my_resnet18", {"attn": "eca"}, None),
    ("my_seresnet18", {"attn": "", "stem": "conv3"}, None),
    ("my_resnet18", {"anti_alias": "blur", "stem": "tiered", "act_layer": "silu"}, None),
    ("my_resnet18", {"norm_layer": "BatchNorm2d", "shortcut": "zero_pad"}, None),
    ("my_resnet18", {"global_pool": "fastcatavgmax"}, "resnet18"),
    ("my_resnet18", {"output_stride": 8}, None),
    ("my_resnet18_small", {"output_stride": 4}, None),
    ("my_resnet20", {"output_stride": 1, "drop_rate": 0.1, "drop_path_rate": 0.1}, None),
    ("my_resnet18", {"in_chans": 1, "anti_alias": "blur"}, "resnetblur18"),
    ("my_resnet20", {"in_chans": 224}, None),
]


@pytest.mark.parametrize(
    ("name", "options", "twin"), OPTIONS, ids=[f"{name}-{'-'.join(options)}" for name, options, _ in OPTIONS]
)
def test_whatever_options_a_network_was_made_with_it_comes_back_the_same(tmp_path, name, options, twin):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, zero_init_last=False, **options).eval()
    folder = save_folder(model, tmp_path / "export", class_names=NAMES)
    assert json.loads((folder / "config.json").read_text())["architecture"] == (twin or name)
    again = resnet_hub.load(folder)
    assert type(again) is type(model)
    assert torch.equal(answers(again), answers(model))
    # Another class may add up in another order, which shows in the last bit on some processors.
    timms = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(answers(timms), answers(model), rtol=1e-5, atol=1e-6)
    saved_again = save_folder(again, tmp_path / "again", class_names=NAMES)
    assert torch.equal(answers(resnet_hub.load(saved_again)), answers(model))


def test_everything_that_a_network_can_be_made_with_can_be_saved():
    rates = {"drop_rate", "drop_path_rate"}  # not written: they matter in training alone
    elsewhere = {"self", "name", "num_classes", "device", "dtype"}
    assert inspect.signature(resnet_hub.MyResNet.__init__).parameters.keys() - rates - elsewhere <= set(
        MODEL_ARGS
    )
    for stride in (1, 2, 4, 8, 16, 32):
        timm.create_model("my_resnet18_small", output_stride=stride, device="meta")
        assert MODEL_ARGS["output_stride"](stride)
    for key, choices in [("global_pool", GLOBAL_POOLS), ("attn", ATTENTIONS), ("stem", STEM_STRIDES)]:
        assert all(MODEL_ARGS[key](choice) for choice in choices)


def test_the_card_names_the_network_that_was_built_and_not_the_one_that_options_were_added_to(tmp_path):
    folder = save_folder(small_model(anti_alias="blur"), tmp_path / "export", class_names=NAMES)
    card = (folder / "README.md").read_text()
    assert "| Architecture | `my_resnetblur18` |" in card
    assert "| The same network in timm | `resnetblur18` |" in card


def test_a_layer_that_is_given_as_a_class_is_refused_with_what_to_give_instead(tmp_path):
    with pytest.raises(ModelError, match=r"'act_layer'.*act_layer='silu'"):
        save_folder(small_model(act_layer=torch.nn.SiLU), tmp_path / "export", class_names=NAMES)


def _channels_last(model: torch.nn.Module) -> torch.nn.Module:
    return model.to(memory_format=torch.channels_last)


def _compiled(model: torch.nn.Module) -> torch.nn.Module:
    return torch.compile(model)


def _averaged(model: torch.nn.Module) -> torch.nn.Module:
    return ModelEmaV3(model)


def _parallel(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.DataParallel(_compiled(model))


@pytest.mark.parametrize("wrapped", [_channels_last, _compiled, _averaged, _parallel])
def test_wrappings_and_memory_formats_leave_no_trace(tmp_path, wrapped):
    model = small_model("my_resnet20")
    folder = save_folder(wrapped(copy.deepcopy(model)), tmp_path / "export", class_names=NAMES)
    assert_same_weights(model, resnet_hub.load(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())


def test_half_precision_comes_back_as_float32(tmp_path):
    model = small_model("my_resnet20").bfloat16()
    again = resnet_hub.load(save_folder(model, tmp_path / "export", class_names=NAMES))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert torch.equal(again.fc.weight, model.fc.weight.float())


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = small_model("my_resnet20").train()
    model.bn1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    save_folder(model, tmp_path / "export", class_names=NAMES)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_existing_folder_is_not_written_over_unless_asked(tmp_path):
    folder = save_folder(small_model("my_resnet20"), tmp_path / "export", class_names=NAMES)
    before = (folder / "model.safetensors").read_bytes()
    torch.manual_seed(1)
    other = timm.create_model("my_resnet20", num_classes=3)
    with pytest.raises(HubError, match="exists already"):
        save_folder(other, folder, class_names=NAMES)
    assert (folder / "model.safetensors").read_bytes() == before
    save_folder(other, folder, class_names=NAMES, overwrite=True)
    assert_same_weights(other, resnet_hub.load(folder))


def test_a_save_that_fails_leaves_nothing_behind_and_the_old_folder_whole(tmp_path):
    folder = save_folder(small_model("my_resnet20"), tmp_path / "export", class_names=NAMES)
    broken = small_model("my_resnet20")
    broken.fc.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinity.*fc.bias"):
        save_folder(broken, folder, class_names=NAMES, overwrite=True)
    resnet_hub.load(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_strict_load_that_computes_something_else_is_caught(tmp_path):
    model = timm.create_model("resnetblur50", num_classes=3).eval()  # the keys and shapes of a plain resnet50
    model.pretrained_cfg["architecture"] = "resnet50"
    with pytest.raises(HubError, match="answers differently"):
        save_folder(model, tmp_path / "export", class_names=NAMES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_only_resnet_hub_would_read_as_another_network_is_caught(tmp_path, monkeypatch):
    plain = timm.create_model("my_resnet18", num_classes=3).eval()

    def read_as_plain(*paths: object, source: str) -> LoadedModel:
        """What a mistaken variant in config.json led to."""
        plain.load_state_dict(load_file(paths[1]))
        return LoadedModel(model=plain, config=read_config(paths[0], source=source))

    model = small_model(anti_alias="blur")
    monkeypatch.setattr(saving, "load_files", read_as_plain)
    with pytest.raises(HubError, match="read as resnet_hub's 'my_resnetblur18' it answers differently"):
        save_folder(model, tmp_path / "export", class_names=NAMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (lambda: small_model("my_resnet20"), NAMES[:2], "3 outputs, and 2 class names"),
        (lambda: torch.nn.Linear(2, 3), NAMES, "pretrained_cfg"),
        (lambda: resnet_hub.MyResNet("resnet18", num_classes=3), NAMES, "timm.create_model"),
    ],
    ids=["names", "not an image model", "not from create_model"],
)
def test_a_model_that_could_not_be_built_again_is_refused(tmp_path, model, names, message):
    with pytest.raises(ModelError, match=message):
        save_folder(model(), tmp_path / "export", class_names=names)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_its_export(tmp_path):
    model = small_model("my_resnet20")
    save_folder(model, tmp_path / "run" / "export", class_names=NAMES)
    assert_same_weights(model, resnet_hub.load(tmp_path / "run"))


def test_a_folder_of_plain_timm_is_loaded_too(tmp_path):
    model = timm.create_model("resnet18", num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path / "theirs", {"label_names": NAMES}, safe_serialization=True)
    again = resnet_hub.load(tmp_path / "theirs")
    assert_same_weights(model, again)
    assert again.pretrained_cfg["label_names"] == tuple(NAMES)


def test_a_cached_folder_loads_no_slower_than_with_timm(tmp_path):
    folder = save_folder(
        timm.create_model("my_resnet50"), tmp_path / "x", class_names=list(map(str, range(1000)))
    )

    def seconds(load: object) -> float:
        start = time.perf_counter()
        load()  # type: ignore[operator]
        return time.perf_counter() - start

    ours = min(seconds(lambda: resnet_hub.load(folder)) for _ in range(3))
    theirs = min(seconds(lambda: timm.create_model(f"local-dir:{folder}", pretrained=True)) for _ in range(3))
    print(f"resnet_hub {ours:.3f} s, timm {theirs:.3f} s", file=sys.stderr)
    assert ours < theirs
    shutil.rmtree(folder)
