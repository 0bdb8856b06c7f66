"""When does NiN fail to start?

Initialisation x learning rate x momentum without a schedule, as the textbook trains; what counts is the share of runs that
collapse or diverge.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="xavier 0.1 0",
    variants={
        f"{init} {lr:g} {momentum:g}": Variant(
            model={"init": init},
            train={"lr": lr, "momentum": momentum, "schedule": "none", "optimizer": "sgd", "last_lr_factor": 1.0},
        )
        for init in ("xavier", "kaiming")
        for lr in (0.01, 0.05, 0.1)
        for momentum in (0.0, 0.9)
    },
    answers="failures",
)
