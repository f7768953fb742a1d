"""A model as a file for other programs: ONNX and torch.export, each compared with the model it came from."""
