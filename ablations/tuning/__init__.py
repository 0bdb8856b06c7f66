"""Tune variants by equal means: search spaces, trials in Optuna's storage, winners and their report."""
