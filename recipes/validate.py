"""Score a run, a model folder, a repository of the Hub, or a model with published weights on any split.

    python recipes/validate.py runs/pets
    python recipes/validate.py runs/pets --dataset_name my_new_photos --output_dir scores/new
    python recipes/validate.py my_resnet50.a1_in1k --dataset_name imagenet/val

The first scores a run again on the validation and test splits that it was measured on. The same as
`resnet-hub validate`; `accelerate launch recipes/validate.py ...` shares the images among GPUs.
"""

import sys

from resnet_hub.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["validate", *sys.argv[1:]]))
