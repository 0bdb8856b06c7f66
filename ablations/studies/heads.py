"""Does NiN's head (class block + global average pooling) do as well as the fully connected heads of AlexNet and VGG?

Both heads' fully connected layers on NiN's trunk, and NiN's head on AlexNet's and VGG's trunks.
"""

from ablations.study import Study, Variant

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
    },
    factors=("model.trunk", "model.head"),
)
