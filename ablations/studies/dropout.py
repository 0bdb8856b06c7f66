"""Is global average pooling a regulariser, as dropout is?

NiN's head and a fully connected one, each with and without dropout, as in the paper's own ablation; and all four again with a
tenth of the training images, seen ten times as often, where a regulariser has more to do. Those are compared among each other.
"""

from ablations.study import Study, Variant

HEADS = {"gap": "nin", "fc": "alexnet"}

STUDY = Study(
    baseline="gap 0.5",
    variants={
        f"{name} {dropout}{suffix}": Variant(
            model={"head": head, "dropout": dropout},
            data={"train_fraction": fraction},
            role="confirmatory" if fraction == 1.0 else "exploratory",
        )
        for suffix, fraction in (("", 1.0), (" tenth", 0.1))
        for name, head in HEADS.items()
        for dropout in (0.5, 0.0)
    },
    contrasts=(
        ("gap 0.5", "fc 0.5"),
        ("gap 0.0", "fc 0.0"),
        ("gap 0.0", "fc 0.5"),
        ("gap 0.5 tenth", "fc 0.5 tenth"),
        ("gap 0.0 tenth", "fc 0.0 tenth"),
        ("gap 0.0 tenth", "fc 0.5 tenth"),
    ),
    factors=("model.head", "model.dropout"),
)
