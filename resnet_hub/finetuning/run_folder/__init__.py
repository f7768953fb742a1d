"""A run's folder: configuration, checkpoints, events."""
