"""Which global pooling should turn class maps into logits?

Behind the ReLU on the class maps a comparison of poolings is confounded by classes that die, so each is also run without that
ReLU ("-norelu"), and over the features with a linear layer after it ("+linear").
"""

from ablations.study import Study, Variant

NAMES = ("average", "max")

STUDY = Study(
    baseline="average",
    variants={name: Variant(model={"pooling": name, "class_relu": True}) for name in NAMES}
    | {f"{name}-norelu": Variant(model={"pooling": name, "class_relu": False}, role="exploratory") for name in NAMES}
    | {f"{name}+linear": Variant(model={"pooling": name, "head": "linear"}, role="exploratory") for name in NAMES},
)
