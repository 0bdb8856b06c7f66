"""Does training in bf16 change what is measured?

Protocols train in automatic mixed precision with bf16 where the processor has it, because it is faster. Answers hold beyond it if
networks come out as accurate as in float32: equivalent, by two one-sided tests. Asked of NiN without 1x1 convolutions, which under
`quick` comes out most alike from seed to seed: to place a difference within 0.3 points takes some 30 seeds of it, but more than 100 of
NiN with two. That one, the baseline of most studies, is compared beside it.
"""

from ablations.study import Study, Variant

PRECISIONS = ("float32", "bf16")

STUDY = Study(
    baseline="float32",
    variants={precision: Variant(model={"num_1x1": 0}, train={"precision": precision}) for precision in PRECISIONS}
    | {f"2x {precision}": Variant(train={"precision": precision}, role="exploratory") for precision in PRECISIONS},
    contrasts=(("2x bf16", "2x float32"),),
)
