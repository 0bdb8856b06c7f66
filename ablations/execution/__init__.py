"""Execute runs: a driver hands them to an engine's workers and keeps what comes back."""
