"""Do the textbook's networks come out as its notebooks report, and how often does NiN fail to train?

LeNet, AlexNet, VGG-11 with a quarter of the channels, and NiN, each under the textbook's own settings (Dive into Deep Learning,
PyTorch), beside the outputs in the histories of its two slide repositories. `--variants nin --seeds 30` gives NiN as many seeds
as its rate of failure wants; LeNet alone trains in minutes on a CPU (`--variants lenet` brings the baseline along).
"""

from ablations.study import Published, Study, Variant

FLOAT32 = {"precision": "float32", "evals_per_epoch": 1}  # as the textbook trains, and its loss is a mean over an epoch

STUDY = Study(
    baseline="lenet",
    variants={
        "lenet": Variant(
            model={"trunk": "lenet", "head": "lenet"},
            data={"image_size": 0},
            train={"lr": 0.9, "batch_size": 256, **FLOAT32},
        ),
        "alexnet": Variant(model={"trunk": "alexnet", "head": "alexnet"}, train={"lr": 0.01, **FLOAT32}),
        "vgg11/4": Variant(model={"trunk": "vgg11", "head": "vgg", "width": 0.25}, train={"lr": 0.05, **FLOAT32}),
        "nin": Variant(train=FLOAT32),
    },
    published=Published(
        "textbook.csv",
        networks={"lenet": "lenet", "alexnet": "alexnet", "vgg11/4": "vgg", "nin": "nin"},
        protocol="d2l",
        failed_loss={"nin": 0.5},
    ),
    protocols=("smoke", "d2l"),
)
