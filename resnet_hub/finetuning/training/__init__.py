"""Training from the first batch to the last epoch."""
