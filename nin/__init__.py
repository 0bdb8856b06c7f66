"""Network in Network: the networks and how one is trained. Knows of no experiment."""

__version__ = "0.1.0"
