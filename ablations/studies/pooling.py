"""Which global pooling should turn class maps into logits?"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="average",
    variants={name: Variant(model={"pooling": name}) for name in ("average", "max")},
)
