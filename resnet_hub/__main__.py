"""`python -m resnet_hub` is `resnet-hub`; under `accelerate launch -m` it runs in several processes."""

import sys

from resnet_hub.cli.main import main

if __name__ == "__main__":  # data-loader processes may import this file again
    sys.exit(main())
