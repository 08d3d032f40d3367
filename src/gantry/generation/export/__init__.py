"""Exports a generator (safetensors, torch.export, ONNX, TorchScript) with a card; the files load without Gantry."""
