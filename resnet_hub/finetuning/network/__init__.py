"""The network that is fine-tuned: built, frozen in part, averaged, taught."""
