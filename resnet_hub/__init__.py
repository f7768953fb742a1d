"""A family of ResNets as first-class timm models, and recipes that fine-tune, measure and publish them."""
