"""Is global average pooling a regulariser, as dropout is?

NiN's head and a fully connected one, each with and without dropout, as in the paper's own ablation. Its sharper form has less to
learn from: `--set data.train_examples=1000`.
"""

from ablations.protocols import PROTOCOLS
from ablations.study import Study, Variant

HEADS = {"gap": "nin", "fc": "alexnet"}

STUDY = Study(
    baseline="gap 0.5",
    variants={
        f"{name} {dropout}": Variant(model={"head": head, "dropout": dropout})
        for name, head in HEADS.items()
        for dropout in (0.5, 0.0)
    },
    factors=("model.head", "model.dropout"),
    protocols=tuple(name for name in PROTOCOLS if name != "paper"),
)
