"""Which global pooling should turn class maps into logits?

Over class maps without a ReLU (the first name alone), over class maps behind the textbook's ReLU ("relu"), where classes can die
and confound the comparison, and over the features with a linear layer after it ("linear"). Generalised-mean and stochastic
pooling take positive values only: over maps without a ReLU they cut off the rest, and have a ReLU after all.
"""

from ablations.study import Study, Variant

NAMES = (
    *("average", "max", "avgmax", "mixed", "gated", "concat", "lse", "gem"),
    *("attention", "simpool", "stochastic", "pyramid", "flatten"),
)

MAPS = {name: Variant(model={"pooling": name, "class_relu": False}) for name in NAMES}
BEHIND_RELU = {
    f"{name} relu": Variant(model={"pooling": name, "class_relu": True}, role="exploratory") for name in NAMES
}
FEATURES = {f"{name} linear": Variant(model={"pooling": name, "head": "linear"}, role="exploratory") for name in NAMES}

STUDY = Study(
    baseline="average",
    variants=MAPS | BEHIND_RELU | FEATURES,
    contrasts=tuple((f"{name} {kind}", f"average {kind}") for kind in ("relu", "linear") for name in NAMES[1:]),
)
