"""Does global average pooling need the non-linearity that 1x1 convolutions add?

The textbook says that it would not be effective without. Each number of 1x1 convolutions meets NiN's head and AlexNet's fully
connected one, so the interaction of the two factors answers.
"""

from ablations.study import Study, Variant

HEADS = {"gap": "nin", "fc": "alexnet"}

STUDY = Study(
    baseline="2x gap",
    variants={
        f"{num_1x1}x {name}": Variant(model={"num_1x1": num_1x1, "head": head})
        for name, head in HEADS.items()
        for num_1x1 in (0, 1, 2)
    },
    contrasts=tuple((f"{num_1x1}x gap", f"{num_1x1}x fc") for num_1x1 in (0, 1, 2)),
    factors=("model.num_1x1", "model.head"),
)
