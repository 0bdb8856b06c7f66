"""Ablations of Network in Network: studies, how their runs are executed, and what they say."""
