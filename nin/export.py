"""Export a trained network to a file that other software can run, and check it against the network.

    python -m nin.export RUN                            ONNX, for ONNX Runtime, Triton and most others
    python -m nin.export RUN --format pt2               torch.export's own, for PyTorch without this code
    python -m nin.export RUN --probabilities            softmax inside: class probabilities in the place of logits
    python -m nin.export RUN --mlflow                   also a registered MLflow model, which `mlflow models serve` answers for
    python -m nin.export RUN --triton models            also a model repository for the Triton inference server

The exported file contains the preprocessing and takes any number of images as bytes, uint8 (N, C, H, W) in the data set's own
size, so clients cannot scale floats wrongly. A model card beside the file describes it (`nin.model_card`).
"""

import argparse
import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from nin.cli import OneLineParser, add_run_argument, exit_with, positive
from nin.files import write_atomically
from nin.mlflow_database import tracking_uri
from nin.model_card import INPUT, first_lines, model_card, output_name
from nin.serving import register_with_mlflow, triton_repository
from nin.text import reason

if TYPE_CHECKING:
    from torch import Tensor

    from nin.data import ImageData
    from nin.weights import Card, Classifier, TrainedNetwork

TOLERANCE = 1e-4  # share of the largest output (at least 1): other kernels add in another order, in float32
CHECK_BATCH = 500  # images

Runner = Callable[["Tensor"], "Tensor"]  # images as bytes (N, C, H, W) -> outputs (N, K)


@dataclass(frozen=True)
class Format:
    """A file format: functions that write a classifier, given two example images, and that read the file to run it.

    example  Python code that runs the file, with FILE for its name and OUTPUT for the output's
    """

    suffix: str
    write: Callable[["Classifier", "Tensor", Path, "Card"], None]
    read: Callable[[Path], Runner]
    example: str


@dataclass(frozen=True)
class Check:
    """Comparison of an exported file with its network on test images, one at a time and in batches.

    largest_difference  largest absolute difference between outputs (logits or probabilities)
    different_labels    images with different predicted classes; within the tolerance these can only be near ties
    accuracy            test accuracy of the exported file, which computes in float32
    """

    examples: int
    largest_difference: float
    different_labels: int
    accuracy: float

    def __str__(self) -> str:
        return (
            f"{self.examples:,} test images: largest difference {self.largest_difference:.1e}, "
            f"{self.different_labels} different labels, accuracy {self.accuracy:.2%}"
        )


def export(
    trained: "TrainedNetwork", data: "ImageData", kind: str, path: Path, probabilities: bool = False, examples: int = 0
) -> Check:
    """Write the file, including the preprocessing, and compare it with the network on `examples` test images (0: all).

    Raises ValueError, and leaves an earlier file as it was, if the outputs differ by more than the tolerance or the format cannot
    express the network.
    """
    classifier, form = trained.classifier(probabilities), FORMATS[kind]
    images = data.test.images[:examples] if examples else data.test.images
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_stem(f"{path.stem}.unchecked")
    try:
        with _without_chatter():
            with _explaining(f"{form.suffix[1:]} cannot express this network"):
                form.write(classifier, _example(data), unchecked, trained.card)
            with _explaining(f"the exported {form.suffix[1:]} file does not run"):
                check = _compare(classifier, form.read(unchecked), images, data.test.labels)
        unchecked.replace(path)
        return check
    finally:
        unchecked.unlink(missing_ok=True)


def _example(data: "ImageData") -> "Tensor":
    """Return two images: torch.export would take a batch of one for the only size there is.

    A copy, since torch.export keeps its example; of a view it would keep the whole storage: all test images.
    """
    return data.test.images[:1].repeat(2, 1, 1, 1)


@contextmanager
def _explaining(failure: str) -> Iterator[None]:
    """Context of a format's own code, whose errors, of all kinds, become a ValueError of one line."""
    try:
        yield
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{failure} ({reason(error)})") from error


def _compare(classifier: Runner, exported: Runner, images_NCHW: "Tensor", labels_N: "Tensor") -> Check:
    """Compare on one image alone, then on batches, which a file with a fixed batch size would refuse."""
    import torch

    largest, scale, different, right = 0.0, 1.0, 0, 0
    with torch.no_grad():
        start = 0
        batches = torch.split(images_NCHW[1:], CHECK_BATCH) if len(images_NCHW) > 1 else ()
        for batch in (images_NCHW[:1], *batches):
            wanted_NK, found_NK = classifier(batch), exported(batch)
            if not bool(wanted_NK.isfinite().all()):
                raise ValueError("the network's own outputs are not finite: a run that diverged is not worth exporting")
            largest = max(largest, float((found_NK - wanted_NK).abs().nan_to_num(torch.inf).max()))
            scale = max(scale, float(wanted_NK.abs().max()))
            found_N = found_NK.argmax(dim=1)
            different += int((found_N != wanted_NK.argmax(dim=1)).sum())
            right += int((found_N == labels_N[start : start + len(batch)]).sum())
            start += len(batch)
    if largest > TOLERANCE * scale:
        raise ValueError(
            f"the exported file differs from the network by {largest:.2g} in outputs of up to {scale:.2g}: not kept"
        )
    return Check(start, largest, different, right / start)


def _write_onnx(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch
    from torch.onnx import OnnxExporterError

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--format onnx needs {package}: python -m pip install 'nin-ablations[export]'")
    try:
        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[output_name(isinstance(classifier.last, torch.nn.Softmax))],
            dynamic_shapes=({0: "batch"},),
        )
    except OnnxExporterError as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(f"ONNX cannot express this network ({cause}): use --format pt2") from error
    assert program is not None
    program.model.metadata_props.update({"name": card.name, "classes": json.dumps(card.classes)})
    program.save(path, external_data=False)


def _read_onnx(path: Path) -> Runner:
    import onnxruntime  # type: ignore[import-untyped]
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _write_pt2(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch

    program = torch.export.export(classifier, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={"classes.json": json.dumps(card.classes)})


def _read_pt2(path: Path) -> Runner:
    import torch

    module: Runner = torch.export.load(path).module()
    return module


def _write_torchscript(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch

    with torch.no_grad():
        program = torch.jit.trace(classifier, images)  # type: ignore[no-untyped-call]
    torch.jit.save(program, path, _extra_files={"classes.json": json.dumps(card.classes)})


def _read_torchscript(path: Path) -> Runner:
    import torch

    module: Runner = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return module


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx",
        _write_onnx,
        _read_onnx,
        f'session = onnxruntime.InferenceSession("FILE")\n(OUTPUT,) = session.run(None, {{"{INPUT}": {INPUT}}})',
    ),
    "pt2": Format(".pt2", _write_pt2, _read_pt2, f'OUTPUT = torch.export.load("FILE").module()({INPUT})'),
    "torchscript": Format(
        ".torchscript", _write_torchscript, _read_torchscript, f'OUTPUT = torch.jit.load("FILE")({INPUT})'
    ),
}


def _require_free(path: Path, page: Path, first: Sequence[str]) -> None:
    """Raise ValueError unless `path` and its page are free, or an earlier export of the same network in the same form wrote them."""
    is_ours = page.is_file() and page.read_text().startswith("\n".join(first) + "\n")
    taken = path if path.exists() else page
    if path.exists() and not page.exists():
        raise ValueError(
            f"{path} has no model card beside it, so it may be anything: remove it, or choose another --out"
        )
    if taken.exists() and not is_ours:
        raise ValueError(f"{taken} exists and is not this network in this form: remove it, or choose another --out")


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Silence warnings of torch, its exporters and MLflow that users cannot act on."""
    for logger in ("onnxscript", "onnx_ir", "torch.export", "torch.onnx"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield


def _safe(name: str) -> str:
    """Replace characters that registries and folders reject: "num_1x1-quick-2x-0" from "num_1x1/quick/2x:0"."""
    return re.sub(r"[^\w-]+", "-", name)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m nin.export", description="Export a trained network to a file that other software can run."
    )
    add_run_argument(parser)
    parser.add_argument(
        "--format",
        choices=["onnx", "pt2", "torchscript"],
        default="onnx",
        dest="kind",
        help="onnx; pt2 for torch.export; torchscript for older tools, deprecated by PyTorch (default: onnx)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="exported file (default: beside the weights)")
    parser.add_argument(
        "--probabilities", action="store_true", help="add the softmax to the file, which then gets another name"
    )
    parser.add_argument(
        "--check",
        type=positive,
        default=0,
        metavar="N",
        dest="examples",
        help="compare on N test images (default: all)",
    )
    parser.add_argument("--mlflow", action="store_true", help="also log and register it as an MLflow model")
    parser.add_argument("--triton", type=Path, metavar="DIR", help="also lay out a Triton model repository (onnx only)")
    parser.add_argument("--name", help="name in MLflow and Triton (default: study, protocol, variant and seed)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_args(argv)
    kind, probabilities = arguments.kind, arguments.probabilities
    if arguments.triton and kind != "onnx":
        raise ValueError(f"--triton needs --format onnx, not {kind}")
    if arguments.triton and arguments.triton.name == "triton":
        # In the working directory, Python would import this folder in place of the package.
        raise ValueError(
            f"--triton {arguments.triton}: torch imports a package `triton`; call the folder something else"
        )
    if arguments.name is not None and not re.fullmatch(r"[\w-]+", arguments.name):
        raise ValueError(f"--name {arguments.name!r}: only letters, digits, '_' and '-'")
    if arguments.name is not None and not arguments.mlflow and not arguments.triton:
        raise ValueError("--name: is the name in MLflow or Triton; give --mlflow or --triton too")
    others = {each.suffix: name for name, each in FORMATS.items() if name != kind}
    if arguments.out and arguments.out.suffix in others:
        raise ValueError(
            f"--out {arguments.out}: ends as a file of --format {others[arguments.out.suffix]}, and this is of {kind}"
        )
    if arguments.mlflow and importlib.util.find_spec("mlflow") is None:
        raise ValueError("--mlflow: MLflow is not installed: python -m pip install mlflow")

    from nin.weights import find, load, load_data

    weights = find(arguments.run, arguments.results)
    trained = load(weights)
    card = trained.card
    data = load_data(card)
    form = ".probabilities" if probabilities else ""
    path = arguments.out or weights.with_suffix(f"{form}{FORMATS[kind].suffix}")
    if path.resolve() == weights.resolve():
        raise ValueError(f"--out {path} is the trained network itself: choose another name")
    page = path.with_name(f"{path.name}.md")
    _require_free(path, page, first_lines(card, kind, probabilities))
    check = export(trained, data, kind, path, probabilities, arguments.examples)
    name = arguments.name or _safe(card.name)
    example = FORMATS[kind].example.replace("FILE", path.name)
    write_atomically(page, model_card(card, kind, probabilities, example, str(check)))
    print(f"{card.name}: {check}")
    print(f"file: {path}\ncard: {page}")
    if arguments.triton:
        model = triton_repository(arguments.triton, name, path, card, output_name(probabilities))
        print(
            f"Triton: {model}; serve it with tritonserver --model-repository={quote(str(arguments.triton.resolve()))}"
        )
    if arguments.mlflow:
        checked = path if kind == "pt2" else None
        print(_registered(trained, data, name, arguments.results, probabilities, checked))
    return 0


def _registered(
    trained: "TrainedNetwork", data: "ImageData", name: str, results: Path, probabilities: bool, checked: Path | None
) -> str:
    """Register the network with MLflow and return how to serve it.

    checked  its exported pt2 file; None if it has another form, which MLflow's loader does not read: then one is written and checked
    """
    results, uri = results.resolve(), tracking_uri(results.resolve())
    results.mkdir(parents=True, exist_ok=True)
    try:
        with _without_chatter(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.pt2"
            if checked:
                shutil.copyfile(checked, file)  # whatever its name is, the server reads this one
            else:
                export(trained, data, "pt2", file, probabilities)
            model_uri = register_with_mlflow(
                trained.card, file, name, uri, results / "mlartifacts", output_name(probabilities)
            )
    except Exception as error:  # MLflow, its databases and the network raise errors of all kinds
        raise ValueError(
            f"--mlflow: the network could not be registered ({reason(error)}); the file above is complete"
        ) from error
    where = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={quote(uri)} "
    return f"MLflow: {model_uri}; serve it with\n{where}mlflow models serve -m {model_uri} --env-manager local -p 5001"


if __name__ == "__main__":
    exit_with(main)
