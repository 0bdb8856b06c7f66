"""Networks with a card, for tests of what is done with trained ones. They are not trained: that changes nothing here."""

from pathlib import Path

from nin.data import ImageData, load
from nin.model import build_model
from nin.sizes import size
from nin.spec import DataSpec, ModelSpec, TrainSpec
from nin.weights import Card, TrainedNetwork, to_bytes

TINY = ModelSpec(layout="small", width=1 / 12, init="kaiming", dropout=0.2, class_block="wide", class_relu=False)
DATA = DataSpec(name="synthetic", train_examples=64, val_examples=50, test_examples=60)


def make(
    model: ModelSpec = TINY,
    data: DataSpec = DATA,
    name: str = "num_1x1/smoke/2x:0",
    run_id: str = "0123456789abcdef",
    loaded: ImageData | None = None,
) -> TrainedNetwork:
    images = loaded or load(data)
    channels, height, width = images.test.images.shape[1:]
    network = size(model, images.in_shape, images.num_classes)
    card = Card(
        name=name,
        run_id=run_id,
        seed=0,
        outcome="finished",
        model=model,
        data=data,
        train=TrainSpec(epochs=3),
        image_shape=(channels, height, width),
        in_shape=images.in_shape,
        classes=images.classes,
        mean=tuple(images.mean.tolist()) if data.normalize else (0.0,) * channels,
        std=tuple(images.std.tolist()) if data.normalize else (1.0,) * channels,
        data_checksum=images.checksum,
        test_accuracy=0.9,
        test_interval=(0.798512, 0.953351),  # Wilson's for 54 of 60
        test_examples=60,
        params_trunk=network.params_trunk,
        params_head=network.params_head,
        gflops=network.gflops,
        environment={"device": "cpu (test)", "torch": "2"},
    )
    return TrainedNetwork(build_model(model, images.in_shape, images.num_classes).eval(), card)


def keep(trained: TrainedNetwork, results: Path) -> Path:
    """Its file, where --keep-weights would put it."""
    study, protocol, _ = trained.card.name.split("/", 2)
    path = results / study / protocol / "weights" / f"{trained.card.run_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(trained.network, trained.card))
    return path
