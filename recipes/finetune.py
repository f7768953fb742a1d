"""Fine-tune a ResNet on an image data set: accelerate launch recipes/finetune.py --help.

The story of a run is resnet_hub/finetuning/run.py; the command line is resnet_hub/finetuning/__main__.py.
"""

import os
import sys

# Threads that spin while they wait are twice as fast on a quiet CPU and many times slower on a busy one
# (recipes/LOG.md). OpenMP reads this once, when torch is loaded, so it is decided before.
if os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from resnet_hub.finetuning.__main__ import main

if __name__ == "__main__":  # data-loader processes may import this file again
    sys.exit(main())
