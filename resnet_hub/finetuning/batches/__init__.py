"""From images to batches: order, augmentation, loading, caches."""
