"""Feast as our rooms import it: without PyTorch and without classes compiled anew, and as able as before."""

import subprocess
import sys

LOOK = """
import sys
import leanrec.features.store
from feast import FeatureView
from feast.torch_wrapper import get_torch

print("torch" in sys.modules, [name for name in FeatureView.__init__.__code__.co_names if "check" in name])
print(get_torch().__name__)
"""


def test_neither_pytorch_nor_type_checks_come_along() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False []", "torch"]
