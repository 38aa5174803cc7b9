"""The python-based backend named `onnxruntime`."""
