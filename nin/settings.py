"""Networks, data and training of the protocols of these names, shared with the benchmark. Standard library only."""

from dataclasses import dataclass

from nin.spec import DataSpec, ModelSpec, Shape, TrainSpec


@dataclass(frozen=True)
class Setting:
    """A network, the images it sees and how it is trained."""

    model: ModelSpec
    data: DataSpec
    train: TrainSpec

    @property
    def in_shape(self) -> Shape:
        """Shape (C, H, W) of the images of Fashion-MNIST as the network sees them."""
        return (1, self.data.image_size or 28, self.data.image_size or 28)


SETTINGS: dict[str, Setting] = {
    # The textbook's own.
    "d2l": Setting(
        ModelSpec(layout="d2l", init="xavier"),
        DataSpec(val_examples=0, image_size=224, normalize=False),
        TrainSpec(epochs=10, batch_size=128, lr=0.1, precision="auto", evals_per_epoch=2),
    ),
    "full": Setting(
        ModelSpec(layout="small", init="kaiming", class_block="wide", class_relu=False),
        DataSpec(augment="flip"),
        TrainSpec(
            epochs=30,
            lr=0.03,
            last_lr_factor=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="one-cycle",
            precision="auto",
            evals_per_epoch=2,
        ),
    ),
    "quick": Setting(
        ModelSpec(layout="small", width=0.25, hidden=1024, init="kaiming", class_block="wide", class_relu=False),
        DataSpec(train_examples=10_000, val_examples=2_000),
        TrainSpec(
            epochs=4,
            batch_size=32,
            lr=0.02,
            last_lr_factor=0.1,
            momentum=0.9,
            schedule="one-cycle",
            precision="auto",
            evals_per_epoch=3,
        ),
    ),
}
