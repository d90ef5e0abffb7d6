"""One stage: the run in progress, the loop, a step, early stopping, evaluation."""
