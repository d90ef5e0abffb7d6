"""Which sites of another head a teacher speaks of."""

from types import SimpleNamespace

import torch

from cl_mlm.batch import Batch
from cl_mlm.mechanisms import other_sites


def test_a_span_head_chooses_a_start_and_an_end_among_all_tokens_but_padding():
    logits = torch.arange(2 * 3 * 2, dtype=torch.float32).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = Batch({"attention_mask": mask}, torch.zeros(2, 3), torch.arange(2), torch.ones(2))
    task = SimpleNamespace(key="qa", objective=SimpleNamespace(is_binary=False))
    run = SimpleNamespace(other_logits=lambda outputs, key: logits)
    found, row = other_sites(run, SimpleNamespace(task=task, form="span"), batch, None)
    lost = float("-inf")
    assert found.tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0], [6.0, 8.0, lost], [7.0, 9.0, lost]]
    assert row.tolist() == [0, 0, 1, 1]
