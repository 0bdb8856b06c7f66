"""Does a very wide hidden layer overfit where labels are wrong?

Width is known to overfit where training labels are noisy. A perceptron with a single hidden layer of 64 to 65,536 units trains
with the true labels, and with two fifths of them drawn at random; validation and test labels stay true.
"""

from ablations.study import Study, Variant

WIDTHS = (64, 1024, 16_384, 65_536)
NOISE = {"": 0.0, " noisy": 0.4}

STUDY = Study(
    baseline="1024 noisy",
    variants={
        f"{width}{suffix}": Variant(
            model={"trunk": "identity", "head": "mlp", "hidden": width, "dropout": 0.0},
            data={"label_noise": share},
            role="confirmatory" if share else "exploratory",
        )
        for suffix, share in reversed(NOISE.items())
        for width in WIDTHS
    },
    contrasts=tuple((f"{width} noisy", str(width)) for width in WIDTHS),
    factors=("model.hidden", "data.label_noise"),
)
