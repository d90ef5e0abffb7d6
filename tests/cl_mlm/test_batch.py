from dataclasses import replace

import pytest
import torch

from cl_mlm.batch import mean_loss
from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.tokens.split_rows import SplitRows


@pytest.fixture
def batch_of(word_stream):
    """The training rows of a stage as a batch, by their number."""

    def make(rows):
        stream = word_stream(1, rows)
        tasks = tasks_of(stream)
        tasks.count_labels(0, -1)
        encoded = SplitRows(stream, "train", tasks, letter_tokenizer(), 64)
        return encoded.collate(encoded.ids(0))

    return make


@pytest.mark.parametrize(("number", "sizes"), [(1, [7]), (2, [4, 3]), (3, [3, 3, 1]), (9, [1] * 7)])
def test_a_batch_is_cut_in_parts_that_hold_every_row_once(number, sizes, batch_of):
    batch = replace(batch_of(7), row_weight=torch.arange(7.0), allowed=torch.ones(7, 2, dtype=torch.bool))
    pieces = batch.pieces(number)
    assert [len(piece) for piece in pieces] == sizes
    for name in ("targets", "ids", "count", "row_weight", "allowed"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    for name, tensor in batch.inputs.items():
        assert torch.equal(torch.cat([piece.inputs[name] for piece in pieces]), tensor)
    shares = [batch.num_tokens * size / 7 for size in sizes]
    assert [piece.num_tokens for piece in pieces] == pytest.approx(shares, abs=0.5)


def test_a_batch_goes_to_a_device_whole_but_for_what_the_cpu_reads(batch_of):
    batch = replace(batch_of(3), row_weight=torch.ones(3), allowed=torch.ones(3, 2, dtype=torch.bool))
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (*moved.inputs.values(), moved.targets, moved.row_weight, moved.allowed)} == {"meta"}
    assert (moved.ids.device.type, moved.count.device.type, moved.input_row) == ("cpu", "cpu", None)


def test_row_weights_scale_the_loss_of_their_rows(batch_of):
    batch = replace(batch_of(4), row_weight=torch.tensor([2.0, 0.0, 1.0, 1.0]))
    losses = torch.tensor([1.0, 10.0, 3.0, 5.0])
    assert float(mean_loss(losses, batch)) == pytest.approx((2 + 0 + 3 + 5) / 4)
    assert float(mean_loss(losses, batch, items=5.0)) == pytest.approx(2.0)
