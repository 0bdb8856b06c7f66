"""Does the memory that training needs grow linearly with the batch?

LeNet, AlexNet, VGG-11 and NiN, batches of 1 to 512: a line per network, its fixed part (weights, gradients, the optimiser's
state, workspace) and its slope per image (activations). `d2l` and `full` have the published widths. Each run is one or two
steps long: what counts is memory.
"""

from ablations.study import Study, Variant

NETWORKS = {
    "lenet": {"trunk": "lenet", "head": "lenet"},
    "alexnet": {"trunk": "alexnet", "head": "alexnet"},
    "vgg11": {"trunk": "vgg11", "head": "vgg"},
    "nin": {"trunk": "nin", "head": "nin"},
}

STUDY = Study(
    baseline="nin 1",
    variants={
        f"{name} {batch}": Variant(
            model=network,
            data={"train_examples": min(2 * batch, 512), "val_examples": 64, "test_examples": 64}
            | ({"image_size": 28} if name == "lenet" else {}),
            train={"batch_size": batch, "epochs": 1, "evals_per_epoch": 1},
            role="exploratory",
        )
        for name, network in NETWORKS.items()
        for batch in (2**power for power in range(10))
    },
    answers="memory",
    seeds=1,
    protocols=("smoke", "quick", "full", "d2l"),
)
