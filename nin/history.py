"""The result of a training: its learning curve and outcome. Standard library only, so reading one loads no torch."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Score:
    """Loss and accuracy of a network on a set of images, in evaluation mode.

    loss          mean cross-entropy in nats, without label smoothing
    accuracy      fraction of images whose largest logit is the label's
    dead_classes  classes of the set that are never predicted on it
    """

    loss: float
    accuracy: float
    dead_classes: int


@dataclass(frozen=True)
class Evaluation:
    """One point of a learning curve.

    examples                    training images seen since the start; epoch counts the same in passes over the training set
    train_loss, train_accuracy  means over the batches since the last evaluation, in training mode, as they were trained on
    val_*, dead_classes         the `Score` on the validation images
    seconds                     training time since the start, without evaluations
    """

    examples: int
    epoch: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    dead_classes: int
    seconds: float

    @property
    def images_per_epoch(self) -> int:
        """Training images in one pass over the training set."""
        return round(self.examples / self.epoch)


@dataclass(frozen=True)
class History:
    """A training's learning curve and how it ended.

    outcome  "finished"; "diverged": a loss was not finite, and training stopped there; "collapsed": validation accuracy was
             never distinguishable from guessing; "paused": training can resume
    seconds_before  training time in an earlier process, from the checkpoint
    """

    outcome: str
    curve: list[Evaluation] = field(repr=False)
    seconds_before: float = 0.0

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with one row per point of the curve and the columns of `Evaluation`."""
        import pandas as pd

        return pd.DataFrame([asdict(point) for point in self.curve])

    def plot(self) -> "Figure":
        """Plot loss and accuracy over epochs, in training and on the validation images."""
        from matplotlib import pyplot  # also registers how notebooks show a figure
        from matplotlib.figure import Figure

        del pyplot
        figure = Figure(figsize=(8, 3), layout="constrained")
        epochs = [point.epoch for point in self.curve]
        marker = "o" if len(epochs) == 1 else None  # a line through one point is not seen
        for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for part, label in (("train", "training"), ("val", "validation")):
                values = [getattr(point, f"{part}_{quantity}") for point in self.curve]
                axes.plot(epochs, values, marker=marker, label=label)
            axes.set(xlabel="epoch", ylabel="cross-entropy, nats" if quantity == "loss" else quantity)
            axes.legend()
        return figure
