"""Write the model card of an exported network: what the file takes and returns, how good it is, and how to run it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nin.weights import Card

INPUT = "images"  # the input's name in exported files: the argument of `nin.weights.Classifier.forward`

# Code that decodes an image file as `nin.images.decode` does, with PIL and NumPy alone.
FROM_FILE = """\
import numpy as np
{imports}
from PIL import Image, ImageOps

file = Image.open("photo.png")
picture = ImageOps.exif_transpose(file)  # upright, as its camera says
values = np.asarray(picture)
if picture.mode == "F":  # floats from 0 (black) to 1 (white)
    assert 0 <= values.min() and values.max() <= 1
    picture = Image.fromarray(np.round(values * 255).astype(np.uint8))
elif values.itemsize > 1:  # 16 bits, of which the upper 8 are used
    assert picture.mode != "I" or file.format == "PPM", "32-bit integers have no value for white"
    picture = Image.fromarray((values >> 8).astype(np.uint8))
if picture.has_transparency_data:
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA"))
picture = picture.convert("{mode}").resize({size}, Image.Resampling.BILINEAR)
pixels = np.asarray(picture).reshape{shape}.transpose(0, 3, 1, 2)
images = {given}"""

# A request with one black image of the network's shape.
REQUEST = """\
python -c 'import json, numpy; print(json.dumps({{"inputs": numpy.zeros({shape}, int).tolist()}}))' |
    curl -s http://127.0.0.1:5001/invocations -H "Content-Type: application/json" -d @-"""


def output_name(probabilities: bool) -> str:
    """Return the output's name in exported files."""
    return "probabilities" if probabilities else "logits"


def model_card(card: "Card", kind: str, probabilities: bool, example: str, comparison: str) -> str:
    """Return the model card in Markdown: everything needed to use the file.

    kind        the file's format, "onnx" for instance
    example     Python code that runs the file, with OUTPUT for the output's name
    comparison  result of comparing the file with the network
    """
    import torch

    low, high = card.test_interval
    output = output_name(probabilities)
    channels, height, width = card.image_shape
    prepared = (
        "normalises them"
        if card.image_shape == card.in_shape
        else (f"normalises them and resizes them to {card.in_shape[1]}x{card.in_shape[2]} (bilinear)")
    )
    rows = {
        "network": _fields(card.model),
        "parameters": f"{card.params_trunk + card.params_head:,} (trunk {card.params_trunk:,}, head {card.params_head:,})",
        "GFLOP": f"{card.gflops:.4f} per image, forward (2 per multiply-accumulate)",
        "input": f"`{INPUT}`: uint8 (N, {channels}, {height}, {width}), any N, 0 is black and 255 white; the file {prepared}",
        "output": f"`{output}`: float32 (N, {len(card.classes)})",
        "classes": ", ".join(f"{k} {name}" for k, name in enumerate(card.classes)),
        "data": f"{_fields(card.data)}; SHA-256 of images and labels {card.data_checksum}",
        "training": f"{_fields(card.train)}, seed={card.seed}; outcome: {card.outcome}",
        "test accuracy": f"{card.test_accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%} (Wilson), "
        f"on {card.test_examples:,} test images, as trained in {card.train.precision}",
        "this file against the network": comparison,
        "trained with": ", ".join(f"{key} {value}" for key, value in card.environment.items() if value),
        "exported with": f"torch {torch.__version__}",
    }
    return "\n".join(
        [
            *first_lines(card, kind, probabilities),
            f"It always predicts one of the {len(card.classes)} classes below, even for an image of something else. "
            "The accuracy is that on images like those it was trained on; on others it is unknown.",
            "",
            "| | |",
            "| --- | --- |",
            *("| {} | {} |".format(key, value.replace("|", "\\|")) for key, value in rows.items()),
            "",
            "Decode an image file exactly as training and `nin.predict` do, then classify it:",
            "",
            "```python",
            FROM_FILE.format(
                imports="import onnxruntime" if kind == "onnx" else "import torch",
                mode="L" if channels == 1 else "RGB",
                size=(width, height),
                shape=(1, height, width, channels),
                given="pixels" if kind == "onnx" else "torch.from_numpy(pixels.copy())",
            ),
            example.replace("OUTPUT", output),
            "```",
            "",
            "With `nin.export --mlflow`, MLflow's server (`mlflow models serve ... -p 5001`) answers with the label of each image:",
            "",
            "```bash",
            REQUEST.format(shape=json.dumps((1, *card.image_shape))),
            "```",
            "",
        ]
    )


def first_lines(card: "Card", kind: str, probabilities: bool) -> list[str]:
    """Return the lines of a model card that name the network, the format and the output."""
    softmax = (
        "Softmax is inside: each row of the output sums to 1."
        if probabilities
        else "The output is logits. Softmax makes probabilities of them; the most probable class is the largest logit either way."
    )
    return [f"# {card.name}", "", f"An image classifier, run {card.run_id} of nin-ablations, as {kind}. {softmax}"]


def _fields(spec: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in asdict(spec).items())
