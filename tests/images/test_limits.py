"""Memory: no file is read that is larger than any image, and few large images are decoded at once."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.errors import HubError
from resnet_hub.finetuning.data.image_column import read_stored
from resnet_hub.images.decoding import BadImageError, read_header
from resnet_hub.images.limits import MAX_FILE_BYTES, MemoryBudget, read_file
from resnet_hub.images.preprocessing import Preprocessing

pytest_plugins = ["tests.hub_server.fixtures"]

SPARSE_BYTES = 40 * 10**9
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"


def peak_gigabytes(code: str, *words: str | Path, **environment: str) -> float:
    """The most memory that a fresh process had while it ran the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{PEAK}", *map(str, words)],
        env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


HEADS = {".jpg": b"\xff\xd8\xff\xe0", ".png": b"\x89PNG\r\n\x1a\n", ".tif": b"II*\0"}


@pytest.fixture(params=HEADS)
def sparse(request, tmp_path) -> Path:
    """A file that says it has 40 GB, and takes no room."""
    path = tmp_path / f"sparse{request.param}"
    with path.open("wb") as file:
        file.write(
            {".jpg": b"\xff\xd8\xff\xe0", ".png": b"\x89PNG\r\n\x1a\n", ".tif": b"II*\0"}[request.param]
        )
        file.truncate(SPARSE_BYTES)
    return path


def test_a_sparse_file_of_40_gb_is_refused_unread(sparse, folder, capsys):
    begin = time.process_time()
    with pytest.raises(BadImageError, match=r"too large: a file of 40,000,000,000 bytes"):
        read_header(sparse)
    with pytest.raises(BadImageError, match=r"too large: a file of 40,000,000,000 bytes"):
        read_stored({"bytes": None, "path": str(sparse)}, (sparse.parent,))
    assert main(["predict", str(folder), str(sparse)]) == 1
    assert "too large: a file of 40,000,000,000 bytes" in capsys.readouterr().err
    assert time.process_time() - begin < 20


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no file without an end")
def test_a_file_that_never_ends_is_given_up_at_the_limit():
    with pytest.raises(ValueError, match="too large"):
        read_file("/dev/zero")


def test_bytes_of_a_table_or_an_archive_have_the_same_limit():
    data = np.zeros(MAX_FILE_BYTES + 1, dtype=np.uint8)  # pages that nobody touches take no memory
    with pytest.raises(BadImageError, match="too large"):
        read_header({"bytes": memoryview(data), "path": None})


@pytest.mark.slow
def test_many_threads_decode_no_more_at_once_than_fits(tmp_path):
    image = tmp_path / "large.png"
    Image.new("RGBA", (5_000, 4_000), (1, 2, 3, 4)).save(image, compress_level=1)
    look = (
        "import sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from resnet_hub.images.decoding import open_image\n"
        "with ThreadPoolExecutor(12) as pool: print(sum(len(i.getpixel((0, 0))) for i in\n"
        "  pool.map(lambda p: open_image(p, at_least=(1, 1)).resize((1, 1)), [sys.argv[1]] * 24)))"
    )
    alone = peak_gigabytes(look.replace("(12)", "(1)"), image)
    # As one of 64 processes of a machine, each of which may have the least that is ever given: 1 GiB.
    together = peak_gigabytes(look, image, LOCAL_WORLD_SIZE="64")
    assert together < alone + 1.1


def test_a_budget_lets_in_what_fits_and_one_that_never_does():
    budget, most, now, lock = MemoryBudget(100), 0, 0, threading.Lock()

    def work(size: int) -> None:
        nonlocal most, now
        with budget.take(size):
            with lock:
                now += size
                most = max(most, now)
            time.sleep(0.002)
            with lock:
                now -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in [30, 50, 70, 100, 1] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 70 <= most <= 100
    with budget.take(10**12):
        pass


@pytest.mark.parametrize("size", [[3, 4096, 4096], [3, 2049, 32], [3, 32, 10**400], [3, 2048, 0]])
@pytest.mark.parametrize("key", ["input_size", "test_input_size"])
def test_a_config_that_asks_for_huge_images_is_refused_and_says_what_to_change(folder, key, size):
    with_cfg(folder, **{key: size})
    with pytest.raises(HubError, match=rf"sets '{key}'.*at most 2048 pixels; lower them there"):
        resnet_hub.load(folder)


def test_a_crop_that_asks_for_huge_images_is_refused(folder):
    with_cfg(
        folder, input_size=[3, 1024, 1024], test_input_size=[3, 1024, 1024], crop_pct=0.01, test_crop_pct=0.01
    )
    with pytest.raises(HubError, match=r"input_size' over 'crop_pct'.*at most 4,096"):
        resnet_hub.load(folder)


@pytest.mark.slow
def test_the_largest_images_of_a_config_take_a_bounded_memory(folder):
    with_cfg(folder, input_size=[3, 2048, 2048], test_input_size=[3, 2048, 2048])
    classify = (
        "import sys, numpy, resnet_hub; model = resnet_hub.load(sys.argv[1])\n"
        "print(resnet_hub.classify(model, numpy.zeros((64, 64, 3), dtype='uint8')))"
    )
    assert peak_gigabytes(classify, folder) < 3


def test_a_strip_that_would_be_huge_once_resized_is_refused():
    preprocessing = Preprocessing(
        image_size=(1024, 1024), crop_fraction=1.0, crop_mode="center", interpolation="bicubic",
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    with pytest.raises(BadImageError, match="too thin: 1000x10"):
        preprocessing(Image.new("RGB", (1000, 10)))
    assert preprocessing(Image.new("RGB", (1000, 100))).shape == (3, 1024, 1024)


def with_cfg(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
