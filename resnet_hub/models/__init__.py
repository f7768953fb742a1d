"""The family of ResNets: networks, weights, and their place in timm."""
