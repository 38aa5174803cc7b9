"""Distributed training: torchrun, TorchRec tables, plain weights at the end."""
