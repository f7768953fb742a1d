"""The family of ResNets: networks, weights, and their place in timm.

Importing any part of it registers the family.
"""

import resnet_hub.models.my_resnet  # noqa: F401
