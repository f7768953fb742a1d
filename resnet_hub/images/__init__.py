"""Image files on their way to a network: finding, decoding, preprocessing."""
