"""Why does the textbook's NiN stop short of other networks, and lose classes, in so many of its published runs?

The class block as the textbook has it (narrow: k, K, K, K channels) and as its authors have it (wide: k, k, k, K), each with and
without the ReLU on the class maps, each with the last layer at the full and at a tenth of the learning rate.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="narrow relu 1",
    variants={
        f"{block} {'relu' if relu else 'linear'} {factor:g}": Variant(
            model={"class_block": block, "class_relu": relu}, train={"last_lr_factor": factor}
        )
        for block in ("narrow", "wide")
        for relu in (True, False)
        for factor in (1.0, 0.1)
    },
    answers="failures",
)
