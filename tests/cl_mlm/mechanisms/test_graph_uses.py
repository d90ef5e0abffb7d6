"""Layers that are used in unusual ways: hooks see each where they can, and what they cannot see goes row by row."""

import gc
import logging
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from cl_mlm.mechanisms.per_example import SquaredGradients

NUM_LABELS, VOCABULARY, PAD = 3, 40, 1


class Small(nn.Module):
    """Token embeddings, what `hidden` makes of them with the extra parts, and a head on their mean."""

    def __init__(self, hidden=lambda model, ids: model.tokens(ids), **parts):
        super().__init__()
        torch.manual_seed(3)
        self.hidden = hidden
        self.tokens = nn.Embedding(VOCABULARY, 6)
        self.head = nn.Linear(6, NUM_LABELS)
        for name, part in parts.items():
            setattr(self, name, part)
        self.double()

    def forward(self, input_ids):
        return self.head(self.hidden(self, input_ids).tanh().mean(1))


def bare_parameter():
    return Small(lambda model, ids: model.tokens(ids) + model.shift, shift=nn.Parameter(torch.randn(6)))


def called_twice():
    return Small(lambda model, ids: model.mix(model.mix(model.tokens(ids)).tanh()), mix=nn.Linear(6, 6))


def tied_modules():
    model = Small(lambda model, ids: model.tokens(ids) * model.again(ids.flip(1)), again=nn.Embedding(VOCABULARY, 6))
    model.again.weight = model.tokens.weight
    return model


def used_without_call():
    return Small(lambda model, ids: linear(model.tokens(ids).tanh(), model.tokens.weight[:6]))


def positions_without_rows():
    return Small(
        lambda model, ids: model.tokens(ids) * model.positions(torch.arange(ids.shape[1])), positions=nn.Embedding(9, 6)
    )


def relative_bias():
    """A table read at (query, key), as in T5: with one query its output looks like positions (1, T)."""

    def hidden(model, ids):
        places = torch.arange(ids.shape[1])
        bias = model.bias(places[:, None] - places[None, :] + 8).permute(2, 0, 1)
        return bias.sigmoid() @ model.tokens(ids)

    return Small(hidden, bias=nn.Embedding(17, 1))


def places_first():
    return Small(lambda model, ids: model.mix(model.tokens(ids).transpose(0, 1)).transpose(0, 1), mix=nn.Linear(6, 6))


def in_place():
    def hidden(model, ids):
        changed = model.mix(model.tokens(ids))
        changed *= 2.0
        return changed.relu_()

    return Small(hidden, mix=nn.Linear(6, 6))


def shifted_norm():
    return Small(lambda model, ids: model.norm(model.tokens(ids)), norm=GemmaRMSNorm(6))


def norm_without_bias():
    return Small(lambda model, ids: model.norm(model.tokens(ids)), norm=nn.LayerNorm(6, bias=False))


def scaled_table():
    """As BART's word embeddings."""

    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids + 1) * 3.0

    return Small(lambda model, ids: model.scaled(ids), scaled=Scaled(VOCABULARY + 1, 6))


def tied_output():
    """The table is the weight of an output layer, too, and is looked up twice."""

    def hidden(model, ids):
        looked_up = model.tokens(ids) * model.tokens(ids.flip(1))
        return model.output(looked_up.tanh())[..., :6]

    model = Small(hidden, output=nn.Linear(6, VOCABULARY, bias=False))
    model.output.weight = model.tokens.weight
    return model


def padding_entry():
    return Small(lambda model, ids: model.padded(ids), padded=nn.Embedding(VOCABULARY, 6, padding_idx=PAD))


@pytest.fixture
def small_case(row_by_row):
    """Squared gradients of a model over rows, and what is expected of them."""

    def make(model, ids):
        labels = torch.arange(len(ids)) % NUM_LABELS
        parameters = dict(model.named_parameters())
        squared = SquaredGradients(model, parameters)
        squared.add(lambda: cross_entropy(model(input_ids=ids), labels, reduction="none"))
        expected = row_by_row(
            lambda row: cross_entropy(model(input_ids=ids[row : row + 1]), labels[row : row + 1]), len(ids), parameters
        )
        return (squared, expected)

    return make


@pytest.mark.parametrize("num_rows", [4, 9])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (bare_parameter, "shift"),
        (used_without_call, "tokens"),
        (positions_without_rows, "positions"),
        (relative_bias, "bias"),
        (places_first, "mix"),
    ],
)
def test_what_hooks_cannot_see_goes_row_by_row_and_is_right(
    kind, name, num_rows, padded_batch, assert_same, small_case
):
    ids = padded_batch(tuple(range(9, 9 - num_rows, -1)))[0]
    squared, expected = small_case(kind(), ids)
    assert squared.slow_modules == [name]
    assert_same(squared.sums, expected)


@pytest.mark.parametrize(("kind", "name"), [(positions_without_rows, "positions"), (relative_bias, "bias")])
def test_tables_without_a_row_axis_are_seen_in_texts_of_one_token(kind, name, assert_same, small_case):
    squared, expected = small_case(kind(), torch.tensor([[5], [6], [7]]))
    assert squared.slow_modules == [name]
    assert_same(squared.sums, expected)


def test_a_layout_that_shows_only_in_a_later_batch_is_seen_there(padded_batch, row_by_row, assert_same):
    model, ids = positions_without_rows(), padded_batch()[0]
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    batches = [ids[:1, :1], ids]
    assert [squared.add(lambda batch=batch: model(input_ids=batch).sum(1)) for batch in batches] == [True, False]
    expected = row_by_row(lambda i: model(input_ids=[*batches[0], *batches[1]][i][None]).sum(), 5, parameters)
    assert_same(squared.sums, expected)


def test_a_parameter_requested_under_two_names_has_two_sums(padded_batch):
    model, ids = Small(), padded_batch()[0]
    squared = SquaredGradients(model, {"one": model.head.bias, "two": model.head.bias})
    assert squared.add(lambda: model(input_ids=ids).sum(1))
    assert bool(squared.sums["one"].any())
    assert torch.equal(squared.sums["one"], squared.sums["two"])


def test_a_hook_of_the_user_that_changes_an_output_is_allowed_for(padded_batch, assert_same, small_case):
    model = Small()
    model.head.register_forward_hook(lambda _module, _args, output: output * 3.0)
    squared, expected = small_case(model, padded_batch()[0])
    assert squared.exact_hooks
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("kind", [Small, in_place, norm_without_bias, padding_entry, shifted_norm, scaled_table])
def test_plain_layers_are_hooked_and_right(kind, padded_batch, assert_same, small_case):
    squared, expected = small_case(kind(), padded_batch()[0])
    assert squared.exact_hooks
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("kind", [called_twice, tied_modules, tied_output])
def test_all_uses_of_a_parameter_are_added_before_the_square(kind, padded_batch, assert_same, small_case):
    squared, expected = small_case(kind(), padded_batch()[0])
    assert squared.exact_hooks
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("parts", [{}, {"shift": nn.Parameter(torch.zeros(6))}], ids=["hooked", "row by row"])
def test_gradient_checkpointing_is_refused_rather_than_taken_for_an_unused_layer(parts, padded_batch):
    start = torch.ones(6, dtype=torch.float64, requires_grad=True)
    model = Small(lambda model, ids: checkpoint(lambda x: model.tokens(ids) * x, start, use_reentrant=True), **parts)
    squared = SquaredGradients(model, dict(model.named_parameters()))
    with pytest.raises(ValueError, match="gradient checkpointing must be off"):
        squared.add(lambda: model(input_ids=padded_batch()[0]).sum(1))


def test_the_slow_way_is_announced_once_with_all_reasons(caplog, padded_batch):
    parts = {"shift": nn.Parameter(torch.randn(6)), "scale": nn.Parameter(torch.randn(6))}
    model = Small(lambda model, ids: model.tokens(ids) * model.scale + model.shift, **parts)
    ids, told = padded_batch()[0], set()
    with caplog.at_level(logging.WARNING):
        for _stage in range(2):
            squared = SquaredGradients(model, dict(model.named_parameters()), told=told)
            for _ in range(2):
                squared.add(lambda: model(input_ids=ids).sum(1))
    assert [record.name for record in caplog.records] == ["cl_mlm.mechanisms.per_example"]
    assert caplog.text.count("slow") == 1
    assert "shift: no rule for Small; scale: no rule for Small" in caplog.text
    assert squared.slow_modules == ["shift", "scale"]


def test_a_finished_batch_is_let_go(padded_batch):
    model, ids, uses = Small(), padded_batch()[0], []
    squared = SquaredGradients(model, dict(model.named_parameters()))

    def losses():
        result = model(input_ids=ids).sum(1)
        uses.extend(weakref.ref(use) for use in squared._taps.uses)
        return result

    gc.disable()  # cycles would wait for it, and keep the activations of several batches
    try:
        squared.add(losses)
        assert [use() for use in uses] == [None] * 2
    finally:
        gc.enable()
