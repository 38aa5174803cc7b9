"""What runs inside or beside Triton."""
