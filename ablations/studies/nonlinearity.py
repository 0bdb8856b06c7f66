"""Do 1x1 convolutions help by adding non-linearity at every pixel, or only by mixing channels?

"mixing" has no ReLU between a block's convolutions: it computes what a single convolution could (variant "0x"), only
parametrised otherwise. The rest replace each ReLU of the network; maxout has two or three times the parameters.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="relu",
    variants={
        name: Variant(model={"activation": name})
        for name in ("relu", "mixing", "gelu", "maxout2", "maxout3", "batchnorm-relu")
    }
    | {"0x": Variant(model={"num_1x1": 0}, role="control")},
)
