"""Weights in the formats of others: the author's release, safetensors, ONNX."""
