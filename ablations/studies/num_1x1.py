"""How many 1x1 convolutions should follow each spatial convolution?

The course's NiN has two. Every block changes together, the class block included.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="2x",
    variants={f"{n}x": Variant(model={"num_1x1": n}) for n in range(5)},
)
