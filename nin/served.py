"""Answer requests to an MLflow server with class labels. MLflow copies this file into a registered model, which needs no other of ours.

Its artifacts are the network as torch.export writes it, and the names of its classes.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray


class LabelledClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Images as bytes, (N, C, H, W) -> for each its label and the outputs by class."""

    def load_context(self, context: Any) -> None:
        """Load the network and the names of its classes."""
        import torch

        self._module = torch.export.load(context.artifacts["network"]).module()
        card = json.loads(Path(context.artifacts["card"]).read_text())
        self._classes, self._output = card["classes"], card["output"]

    def predict(
        self, context: Any, model_input: NDArray[np.uint8], params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """For each image {"label": "coat", "probabilities": {"coat": 0.9, ...}}, or its logits."""
        import torch

        with torch.no_grad():
            outputs_NK = self._module(torch.from_numpy(np.ascontiguousarray(model_input))).numpy()
        return [
            {
                "label": self._classes[int(outputs_K.argmax())],
                self._output: dict(zip(self._classes, outputs_K.tolist(), strict=True)),
            }
            for outputs_K in outputs_NK
        ]


mlflow.models.set_model(LabelledClassifier())
