"""The straightforward way to serve the trained model: eager float32 PyTorch in Triton's python backend."""
