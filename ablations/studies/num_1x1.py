"""How many 1x1 convolutions should follow each spatial convolution?

The textbook's NiN has two. Every block changes together, the class block included. More 1x1s are also more parameters and more
work, so controls hold each of these equal by width, and two have the depth of two 1x1s in spatial convolutions instead: at
the parameters of the baseline, and at its width.
"""

from ablations.study import Match, Study, Variant

COUNTS = {f"{n}x": Variant(model={"num_1x1": n}) for n in range(5)}

# "2x@3x-params": two 1x1s, widened to the parameters of three.
SIZES = {
    f"{n}x@{other}-{by}": Variant(model={"num_1x1": n}, role="control", match=Match(other, by))
    for n, other in ((0, "2x"), (2, "3x"), (2, "4x"))
    for by in ("params", "gflops")
}

# As deep as 2x, its 1x1s replaced by 3x3s: narrowed to the same parameters, and as wide.
DEPTH = {
    "3x3@2x-params": Variant(model={"inner_kernel": 3}, role="control", match=Match("2x", "params")),
    "3x3": Variant(model={"inner_kernel": 3}, role="control"),
}

STUDY = Study(baseline="2x", variants=COUNTS | SIZES | DEPTH, contrasts=(("1x", "0x"),))
