"""The parallel plan, the loop, checkpoints, the torchrun entry point."""
