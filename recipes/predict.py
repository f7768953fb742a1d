"""Label images with a run, a model folder, a repository of the Hub, or a model with published weights.

    python recipes/predict.py runs/pets photos
    python recipes/predict.py runs/pets photos --output labels.csv --gradcam looked_at
    python recipes/predict.py my_resnet50 'photos/**/*.jpg' --json

The same as `resnet-hub predict`. Images that cannot be read are listed at the end and stop nothing.
"""

import sys

from resnet_hub.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
