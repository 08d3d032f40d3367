"""Exports a trained generator (safetensors, torch.export, ONNX) with a model card; the files load without Gantry."""
