"""On a Ray cluster that is started here: what becomes of four runs under each of the tasks named, a line of JSON for each task."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import fake_tasks
from builders import smoke_runs

from ablations.execution.engines import Ended, Failed
from ablations.execution.engines.ray import PACKAGES, RayEngine, connect

here = Path(__file__).parent
connect(cpus=2, packages=[*PACKAGES, str(here / "fake_tasks.py"), str(here / "builders.py")])
for name in sys.argv[1:]:
    runs = smoke_runs(seeds=2, variants=["0x"])
    engine = RayEngine(getattr(fake_tasks, name), workers=2, time_limit=15)
    events = defaultdict(list)
    for event in engine.execute(runs):
        error = f" {event.error}" if isinstance(event, Failed) else ""
        detail = f" {event.detail}" if isinstance(event, Failed) else ""
        events[event.run.label].append(f"{type(event).__name__}{error}{detail}")
        assert not isinstance(event, Ended) or event.record.run == event.run
    print(json.dumps(events), flush=True)
