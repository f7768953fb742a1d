"""Fine-tuning: from a data set to a measured, exported model. The story is told in `run.py`."""
