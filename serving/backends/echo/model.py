"""An echo: what comes in goes out. The launcher's start-up check sends numbers through it.

Triton's Python stub silently corrupts tensors under numpy 2 ([1, 2, 3] is read as [1, 1, 1]); a server
whose echo differs must not serve.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers `sent` as `received`."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, through numpy and back."""
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(
                        "received", pb_utils.get_input_tensor_by_name(request, "sent").as_numpy().copy()
                    )
                ]
            )
            for request in requests
        ]
