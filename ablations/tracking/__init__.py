"""Keep track of runs in MLflow, beside the records on disk, which are the truth."""
