"""What a training leaves behind: its learning curve and how it ended. Standard library only, so reading one loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What a network does on a set of images, in evaluation mode.

    loss          mean cross-entropy in nats, without label smoothing
    accuracy      fraction of images whose largest logit is the label's
    dead_classes  classes that are never predicted on the set
    """

    loss: float
    accuracy: float
    dead_classes: int


@dataclass(frozen=True)
class Evaluation:
    """One point of a learning curve.

    examples                    training images seen since the start; epoch is the same in passes over the training set
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


@dataclass(frozen=True)
class History:
    """A finished training: its learning curve and how it ended.

    outcome  "finished"; "diverged": a loss was not finite, and training stopped there; "collapsed": validation accuracy was
             never distinguishable from guessing; "paused": it was asked to, and can go on
    seconds_before  training time that a checkpoint brought along from an earlier process
    """

    outcome: str
    curve: list[Evaluation]
    seconds_before: float = 0.0
