"""Does training in bf16 change what is measured?

Protocols train in automatic mixed precision with bf16 because it is faster. Answers hold beyond it if networks come out as
accurate as in float32: equivalent, by two one-sided tests.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="float32",
    variants={precision: Variant(train={"precision": precision}) for precision in ("float32", "bf16")},
)
