"""Where measurements go: the journal on disk first, MLflow second."""
