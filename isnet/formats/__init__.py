"""Weights in foreign formats: the author's release, safetensors, ONNX."""
