"""How accurate can a NiN of under a million parameters be?

`python -m ablations.tune best` searches layout, width, 1x1 convolutions, pooling, activation and all that training has; what a
search has found is kept in `best.json` beside this file, and is variant "found" from then on, under every protocol of this study.
"""

import json
from pathlib import Path

from ablations.runs import require_settings
from ablations.study import Study, Variant

FOUND = Path(__file__).with_suffix(".json")


def _found() -> dict[str, Variant]:
    """The variant in FOUND, whose keys are fields of a run ("model.width"); empty if there is none.

    Raises ValueError if the file is damaged.
    """
    if not FOUND.exists():
        return {}
    try:
        settings = json.loads(FOUND.read_text())
        require_settings(settings)
    except ValueError as error:
        raise ValueError(f"{FOUND} is damaged ({error}): copy it again, or remove it") from error
    return {"found": Variant.of(settings)}


STUDY = Study(
    baseline="nin",
    variants={"nin": Variant()} | _found(),
    searches=True,
    protocols=("smoke", "quick", "standard", "full"),
)
