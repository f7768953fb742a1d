"""Publish a finished run, or any model folder, on the Hub: one commit, read back before it says done.

    python recipes/publish.py runs/pets alice/pets-resnet50 --private
    python recipes/publish.py runs/pets alice/pets-resnet50 --tag v1
    python recipes/publish.py runs/pets someone/pets-resnet50 --create_pr

The same as `resnet-hub push`. The folder stays as it is, and the command can be repeated safely.
"""

import sys

from resnet_hub.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
