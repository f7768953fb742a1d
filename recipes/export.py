"""Export a model to ONNX and torch.export, each file compared with the model before it is kept.

    python recipes/export.py runs/pets --output_dir exported
    python recipes/export.py runs/pets --output_dir exported --formats onnx onnx_int8 --with_preprocessing
    python recipes/export.py my_resnet50 --output_dir exported --formats onnx_int8 --images photos

The same as `resnet-hub export`.
"""

import sys

from resnet_hub.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
