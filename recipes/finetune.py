"""Fine-tune a ResNet on an image data set: accelerate launch recipes/finetune.py --help.

The story of a run is resnet_hub/finetuning/run.py; the command line is resnet_hub/finetuning/__main__.py.
"""

import sys

from resnet_hub.finetuning.__main__ import main

if __name__ == "__main__":  # data-loader processes may import this file again
    sys.exit(main())
