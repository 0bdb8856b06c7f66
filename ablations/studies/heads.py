"""Does NiN's head (class block + global average pooling) do as well as the fully connected heads of AlexNet and VGG?

Both heads' fully connected layers on NiN's trunk, and NiN's head on AlexNet's and VGG's trunks. A control narrows the fully
connected head to the parameters of NiN's, so that size cannot explain the difference.
"""

from ablations.study import Match, Study, Variant

STUDY = Study(
    baseline="nin+nin",
    variants={
        f"{trunk}+{head}": Variant(model={"trunk": trunk, "head": head})
        for trunk, head in (
            ("nin", "nin"),
            ("nin", "alexnet"),
            ("nin", "vgg"),
            ("alexnet", "nin"),
            ("alexnet", "alexnet"),
            ("vgg11", "nin"),
            ("vgg11", "vgg"),
        )
    }
    | {
        "nin+alexnet@params": Variant(
            model={"head": "alexnet"}, role="control", match=Match("nin+nin", "params", "hidden")
        )
    },
    factors=("model.trunk", "model.head"),
    contrasts=(("alexnet+alexnet", "alexnet+nin"), ("vgg11+vgg", "vgg11+nin")),
    left_out={
        "digits": ("alexnet+nin", "alexnet+alexnet"),  # images of 8x8 pixels are too small for AlexNet's trunk
        "smoke": ("nin+alexnet@params",),  # in so narrow a network it is nin+alexnet itself
    },
    protocols=("smoke", "quick", "standard", "digits", "full", "d2l", "d2l-1.0"),
)
