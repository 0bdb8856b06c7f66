"""Run the command `nin-ablations`: a name for each module that is one, and for the two servers. Loads only what is asked for."""

import importlib
import sys
from collections.abc import Sequence

from nin import __version__
from nin.cli import SUCCESS, exit_with
from nin.spec import choose

COMMANDS = {
    "run": ("ablations.run", "main", "train the runs of a study, and write its report"),
    "tune": ("ablations.tune", "main", "tune every variant of a study alike"),
    "report": ("ablations.report", "main", "write a report again, or compare two results folders"),
    "ui": ("ablations.servers", "serve_ui", "serve MLflow's user interface"),
    "dashboard": ("ablations.servers", "serve_dashboard", "serve optuna-dashboard"),
    "measure": ("nin.measure", "main", "show a network's layers, parameters and FLOPs"),
    "export": ("nin.export", "main", "write a trained network as ONNX, pt2 or TorchScript"),
    "predict": ("nin.predict", "main", "classify image files with a trained network"),
}


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit status. Raises ValueError, in one line, for a name that does not exist."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: nin-ablations COMMAND ...; COMMAND --help lists its options\n")
        print("\n".join(f"  {name:10} {purpose}" for name, (_, _, purpose) in COMMANDS.items()))
        return SUCCESS
    if argv[0] == "--version":
        print(f"nin-ablations {__version__}")
        return SUCCESS
    module, function, _ = choose(COMMANDS, argv[0], "command")
    return int(getattr(importlib.import_module(module), function)(argv[1:]))


def main() -> None:
    """Run the command that the process was started with, and exit."""
    exit_with(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
