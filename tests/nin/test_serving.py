"""Networks registered with MLflow: what they answer when they are served, and what is said when they cannot be."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from trained_networks import keep, make

import nin.export
from nin.export import main
from nin.model import predict
from nin.model_card import REQUEST
from nin.weights import Card


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.timeout(60)  # MLflow itself would try a server that does not answer again for minutes
@pytest.mark.parametrize("uri", ["sqlite:///{}/junk.db", "nothing://someone:secret@nowhere", "http://127.0.0.1:1"])
def test_mlflow_out_of_reach_is_one_line_and_the_file_is_kept(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = keep(make(), tmp_path)
    (tmp_path / "junk.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    with pytest.raises(ValueError, match="could not be registered") as caught:
        main(["2x:0", "--results", str(tmp_path), "--format", "pt2", "--mlflow"])
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert weights.with_suffix(".pt2").exists()


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # of MLflow's own, when it is imported
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 28, 28)), r"inputs have shape \(1, 28, 28\), but must have \(N, 1, 28, 28\): a list of images"),
        (np.zeros((2, 1, 32, 32)), r"inputs have shape \(2, 1, 32, 32\), but must have \(N, 1, 28, 28\)$"),
        (np.full((1, 1, 28, 28), 0.5), r"pixels must be whole numbers from 0 \(black\) to 255 \(white\), not 0.5"),
        (np.full((1, 1, 28, 28), 256), "not 256"),
        ([["a"]], "must be a list of images of one shape"),
    ],
)
def test_a_served_network_says_in_a_line_what_is_wrong_with_images(images: object, said: str) -> None:
    from nin.served import WrongImagesError, as_bytes

    with pytest.raises(WrongImagesError, match=said) as refused:
        as_bytes(images, (1, 28, 28))
    refused.value.message = f"Failed to predict data {images}"  # as MLflow's server does
    assert "Failed" not in refused.value.message
    assert as_bytes(np.full((2, 1, 28, 28), 255), (1, 28, 28)).dtype == np.uint8


@pytest.mark.slow
def test_mlflow_serves_what_was_registered(images: Tensor, tmp_path: Path) -> None:
    trained = make()
    keep(trained, tmp_path)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "nin.export", "2x:0", "--results", str(tmp_path)]
    options = ["--mlflow", "--probabilities", "--name", "clothes"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=plain, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "models:/clothes/1" in done.stdout
    assert "Traceback" not in done.stderr

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    activated = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }  # mlflow looks for uvicorn there
    serve = ["mlflow", "models", "serve", "-m", "models:/clothes/1", "--env-manager", "local", "-p", str(port)]
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        # From another folder and without our code: the registered model has to be enough.
        environment = {**{key: value for key, value in plain.items() if key != "PYTHONPATH"}, **tracking, **activated}
        server = subprocess.Popen(serve, cwd=tmp_path, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        for count in (1, 3):
            body = json.dumps({"inputs": images[:count].tolist()}).encode()
            request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                answers = json.load(response)["predictions"]
            wanted = predict(trained.classifier(), images[:count])
            found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
            classes = trained.card.classes
            assert [answer["label"] for answer in answers] == [classes[k] for k in wanted.argmax(dim=1)]
            assert all(tuple(answer["probabilities"]) == classes for answer in answers)
        body = json.dumps({"inputs": images[:1, 0].tolist()}).encode()  # (1, 28, 28): the channel is missing
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        said = refused.value.read().decode()
        assert refused.value.code == 400, said
        assert "inputs have shape (1, 28, 28), but must have (N, 1, 28, 28)" in said
        assert len(said) < 500, "the pixels are not repeated"
        copied = REQUEST.format(shape=[1, 1, 28, 28]).replace("127.0.0.1:5001", f"127.0.0.1:{port}")
        if shutil.which("curl"):
            answer = subprocess.run(
                copied, shell=True, capture_output=True, text=True, check=True, env=plain | activated
            )
            assert json.loads(answer.stdout)["predictions"][0]["label"] in trained.card.classes
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def test_the_network_in_mlflow_takes_any_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example of one image would freeze the batch dimension."""
    answers: list[Tensor] = []

    def register(card: Card, network: Path, *_: object) -> str:
        classifier = torch.export.load(network).module()
        answers.append(classifier(torch.zeros(3, *card.image_shape, dtype=torch.uint8)))
        return "models:/x/1"

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(nin.export, "register_with_mlflow", register)
    keep(make(), tmp_path)
    assert main(["2x:0", "--results", str(tmp_path), "--format", "pt2", "--mlflow"]) == 0
    assert [len(logits_NK) for logits_NK in answers] == [3]
