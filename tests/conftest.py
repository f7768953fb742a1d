"""Every test has a cache of its own, no way to the Hub, and no GPU unless it is a test of GPUs."""

import os
import tempfile

# Read by huggingface_hub, datasets and matplotlib when they are imported, so set before any test module is.
_scratch = tempfile.mkdtemp(prefix="resnet_hub-tests-")
os.environ["HF_HOME"] = _scratch
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLCONFIGDIR"] = _scratch
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# With a test process per core each keeps to one: computing on all cores they would wait for each other.
# What is promised to the bit is promised of CPUs; `make test-gpu` asks for the others.
if os.environ.get("RESNET_HUB_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
for name in ("HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(name, None)
