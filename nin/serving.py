"""Prepare an exported network for a server: a model repository for Triton, or a registered MLflow model (`nin.served`)."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nin.files import write_atomically
from nin.mlflow_database import load_mlflow, open_client
from nin.model_card import INPUT

if TYPE_CHECKING:
    from nin.weights import Card

LABELS, TRITON = "labels.txt", "config.pbtxt"
MAX_BATCH = 256  # images that Triton may put together
MAX_DELAY_MICROSECONDS = 1000  # wait of Triton for more images to put together
EXPERIMENT = "nin-ablations/exported"


def triton_repository(folder: Path, name: str, onnx_file: Path, card: "Card", output: str) -> Path:
    """Lay out `<folder>/<name>` for the Triton inference server: configuration, labels and version 1 of the model; return it.

    Raises ValueError if anything else is there. Files are replaced whole, since a server may be reading them.
    """
    model = folder / name
    configuration = _triton_configuration(name, card, output)
    is_ours = (model / TRITON).is_file() and (model / TRITON).read_text() == configuration
    if model.exists() and not is_ours and any(model.iterdir()):
        raise ValueError(
            f"{model} holds another network, or this one in another form: remove it, or choose another --name"
        )
    write_atomically(model / TRITON, configuration)  # first: by it an interrupted export is known as this network's
    write_atomically(model / LABELS, "".join(f"{label}\n" for label in card.classes))
    write_atomically(model / "1" / "model.onnx", onnx_file.read_bytes())
    return model


def _triton_configuration(name: str, card: "Card", output: str) -> str:
    dims = ", ".join(str(n) for n in card.image_shape)
    return f'''# run {card.run_id} of nin-ablations
name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ {len(card.classes)} ] label_filename: "{LABELS}" }} ]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY_MICROSECONDS} }}
'''


def register_with_mlflow(card: "Card", network: Path, name: str, uri: str, artifacts: Path, output: str) -> str:
    """Log a network and register it as `name`. Returns its URI, "models:/<name>/<version>".

    network    file of torch.export with the network and its preprocessing
    artifacts  folder for files if `uri` is a database; a server has a place of its own
    output     name of the network's output
    """
    load_mlflow()
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    client = open_client(uri)
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        place = None if uri.startswith("http") else artifacts.resolve().as_uri()
        mlflow.create_experiment(EXPERIMENT, artifact_location=place)
    experiment = mlflow.set_experiment(EXPERIMENT)
    # By the client, since start_run would continue a run that another program has named in MLFLOW_RUN_ID
    run = client.create_run(experiment.experiment_id, run_name=card.name)
    # Any tensor passes: the model itself refuses wrong ones in one line, where MLflow's check would repeat all pixels.
    signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]))
    with mlflow.start_run(run_id=run.info.run_id), tempfile.TemporaryDirectory() as folder:
        about = Path(folder) / "card.json"
        about.write_text(json.dumps({"classes": card.classes, "output": output, "shape": card.image_shape}))
        mlflow.log_metric("test/accuracy", card.test_accuracy)
        info = mlflow.pyfunc.log_model(
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"network": str(network), "card": str(about)},
            name=name,
            registered_model_name=name,
            signature=signature,
            # Without them MLflow would load the model in another process to find them. No index has "+cpu".
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
            metadata={"card": asdict(card), "output": output},
        )
    return f"models:/{name}/{info.registered_model_version}"
