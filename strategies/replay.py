"""Experience replay: every step also sees rows of earlier stages.

Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486, algorithm 1 with reservoir
sampling. Differs from the paper: rows enter the buffer at the end of their stage, so that memory batches hold only
rows of earlier stages; several passes over a stage are allowed; the memory's mean loss has a weight of its own; up to
50 batches are drawn at once, without replacement, and dealt out by length, so that a memory batch pads little.
"""

from __future__ import annotations

from cl_mlm.mechanisms import Rehearsal


class Replay(Rehearsal):
    """Adds `weight * mean loss` of memory rows to every step.

    Args:
        capacity: rows kept, over all stages.
        weight: of the memory rows' mean loss, beside the mean loss of the step's own rows.
        rows: memory rows for each micro-batch of a step; null: `training.batch_size`.
    """
