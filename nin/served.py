"""Answer requests to an MLflow server with class labels. MLflow copies this file into a registered model, which needs no other of ours.

Its artifacts are the network as torch.export writes it, and a card: the names of its classes and the shape of its images.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from numpy.typing import ArrayLike, NDArray


class WrongImagesError(MlflowException):
    """Images that the network does not take. Its message cannot be changed, since the server would put all pixels before it."""

    def __init__(self, message: str) -> None:
        self._message = message
        super().__init__(message, error_code=BAD_REQUEST)

    @property
    def message(self) -> str:
        """The reason, and what is expected."""
        return self._message

    @message.setter
    def message(self, message: str) -> None:
        pass


class LabelledClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Answer images as bytes, (N, C, H, W), with the label and the outputs by class of each."""

    def load_context(self, context: Any) -> None:
        """Load the network and its card."""
        import torch

        self._module = torch.export.load(context.artifacts["network"]).module()
        card = json.loads(Path(context.artifacts["card"]).read_text())
        self._classes, self._output, self._shape = card["classes"], card["output"], tuple(card["shape"])

    def predict(
        self,
        model_input: np.ndarray,  # the one hint of an array that MLflow knows
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return {"label": "coat", "probabilities": {"coat": 0.9, ...}}, or logits, for each image.

        Raises WrongImagesError for another shape, or numbers that are not bytes.
        """
        import torch

        images_NCHW = as_bytes(model_input, self._shape)
        with torch.no_grad():
            outputs_NK = self._module(torch.from_numpy(images_NCHW)).numpy()
        return [
            {
                "label": self._classes[int(outputs_K.argmax())],
                self._output: dict(zip(self._classes, outputs_K.tolist(), strict=True)),
            }
            for outputs_K in outputs_NK
        ]


def as_bytes(images: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Convert images of that shape (C, H, W) to bytes, without loss. Raises WrongImagesError for other shapes or numbers."""
    sides = ", ".join(map(str, shape))
    try:
        numbers = np.asarray(images).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise WrongImagesError(
            f"inputs must be a list of images of one shape ({sides}), of numbers: {error}"
        ) from error
    if numbers.shape[1:] != shape:
        lacking = "" if numbers.ndim == 1 + len(shape) else ": a list of images, each a list of channels"
        raise WrongImagesError(f"inputs have shape {numbers.shape}, but must have (N, {sides}){lacking}")
    outside = numbers[(numbers != np.round(numbers)) | (numbers < 0) | (numbers > 255)]
    if outside.size:
        raise WrongImagesError(f"pixels must be whole numbers from 0 (black) to 255 (white), not {outside.flat[0]:g}")
    return numbers.astype(np.uint8)


mlflow.models.set_model(LabelledClassifier())
