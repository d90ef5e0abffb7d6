"""Records what a run measures: first in the journal on disk, then in MLflow."""
