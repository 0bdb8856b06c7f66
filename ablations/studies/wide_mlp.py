"""Is a very wide hidden layer hard because of memory, or because it overfits?

A perceptron with a single hidden layer on the pixels, 64 to 65,536 units by powers of 4: peak memory of training, and accuracy
on training and test images.
"""

from ablations.study import Study, Variant

WIDTHS = tuple(4**power for power in range(3, 9))

STUDY = Study(
    baseline="1024",
    variants={
        str(width): Variant(model={"trunk": "identity", "head": "mlp", "hidden": width, "dropout": 0.0})
        for width in WIDTHS
    },
)
