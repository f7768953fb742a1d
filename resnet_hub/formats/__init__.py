"""Export a model to ONNX and torch.export, and compare each file with the model."""
