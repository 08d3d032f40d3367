"""Exports a trained generator (safetensors, torch.export, ONNX, TorchScript) with a model card; the files load without Gantry."""
