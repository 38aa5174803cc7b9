"""What runs inside Triton: the one room that imports triton_python_backend_utils."""
