"""Squared gradients per row against autograd, one row at a time."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, log_softmax
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from cl_mlm.mechanisms.per_example import SquaredGradients

NUM_LABELS, VOCABULARY, PAD, EOS = 3, 40, 1, 2
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ENCODER_DECODER = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
CONFIGS = {
    "bert": TINY | {"max_position_embeddings": 12},
    "roberta": TINY | {"max_position_embeddings": 14},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12},
    "llama": TINY | {"num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": ENCODER_DECODER | {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
}
HOOKED = ["bert", "roberta", "distilbert", "gpt2", "llama"]
SLOW = ["t5", "bart"]


def tiny_model(kind, dtype=torch.float64):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, num_labels=NUM_LABELS, pad_token_id=PAD, eos_token_id=EOS, **CONFIGS[kind]
    )
    model = AutoModelForSequenceClassification.from_config(config).to(dtype).eval()
    with torch.no_grad():  # larger than the usual initialisation, so that no gradient drowns in rounding
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def padded_batch(lengths=(5, 9, 3, 7)):
    torch.manual_seed(1)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        ids[row, : length - 1] = torch.randint(3, 10, (length - 1,))  # few tokens, so that rows repeat some
        ids[row, length - 1] = EOS
    labels = torch.arange(len(lengths)) % NUM_LABELS
    return ids, (ids != PAD).long(), labels


def losses_of(model, batch):
    ids, mask, labels = batch
    return cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels, reduction="none")


def row_of(batch, row):
    return tuple(tensor[row : row + 1] for tensor in batch)


def squares_of(loss, parameters):
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.square()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def row_by_row(loss_of_row, num_rows, parameters):
    """Sums of squares from a forward and a backward pass for each row alone."""
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row in range(num_rows):
        for name, squares in squares_of(loss_of_row(row), parameters).items():
            totals[name] += squares
    return totals


def assert_same(sums, expected, rtol=1e-5, atol=1e-12):
    assert sums.keys() == expected.keys()
    scale = max(float(value.max()) for value in expected.values())
    assert scale > 1e-4
    for name, value in expected.items():
        got, limit = sums[name].double(), atol * scale
        torch.testing.assert_close(got, value.double(), rtol=rtol, atol=limit, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from more, and lose much where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert")


@pytest.mark.parametrize("kind", [*HOOKED, *SLOW])
def test_sums_equal_autograd_row_by_row(kind):
    model, batch = tiny_model(kind), padded_batch()
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    assert squared.add(lambda: losses_of(model, batch)) is (kind in HOOKED)
    assert_same(squared.sums, row_by_row(lambda row: losses_of(model, row_of(batch, row)), 4, parameters))


@pytest.mark.parametrize("kind", [*HOOKED, *SLOW])
def test_sums_equal_autograd_in_single_precision(kind):
    model, batch = tiny_model(kind, torch.float32), padded_batch()
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    squared.add(lambda: losses_of(model, batch))
    expected = row_by_row(lambda row: losses_of(model, row_of(batch, row)), 4, parameters)
    assert_same(squared.sums, expected, rtol=1e-4, atol=1e-6)


def test_batches_and_rows_add_up(bert):
    parameters = dict(bert.named_parameters())
    whole, parts = SquaredGradients(bert, parameters), SquaredGradients(bert, parameters)
    batch = padded_batch()
    whole.add(lambda: losses_of(bert, batch))
    for rows in (slice(0, 1), slice(1, 4)):
        parts.add(lambda rows=rows: losses_of(bert, tuple(tensor[rows] for tensor in batch)))
    assert parts.rows == whole.rows == 4
    assert_same(parts.sums, whole.sums)


def test_weights_scale_the_squares(bert):
    batch, weights = padded_batch(), torch.tensor([0.5, 0.0, 2.0, 1.0], dtype=torch.float64)
    parameters = dict(bert.named_parameters())
    squared = SquaredGradients(bert, parameters)
    squared.add(lambda: (losses_of(bert, batch), weights))
    expected = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row in range(4):
        for name, squares in squares_of(losses_of(bert, row_of(batch, row)).sum(), parameters).items():
            expected[name] += weights[row] * squares
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_several_losses_per_row_give_the_exact_fisher(kind):
    model, (ids, mask, _) = tiny_model(kind), padded_batch()
    parameters = dict(model.named_parameters())

    def classes_and_probabilities():
        log_p = log_softmax(model(input_ids=ids, attention_mask=mask).logits, dim=-1).t()
        return -log_p, log_p.exp()

    squared = SquaredGradients(model, parameters)
    squared.add(classes_and_probabilities)
    expected = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row in range(4):
        log_p = log_softmax(model(input_ids=ids[row : row + 1], attention_mask=mask[row : row + 1]).logits[0], dim=-1)
        for label in range(NUM_LABELS):
            for name, squares in squares_of(log_p[label], parameters).items():
                expected[name] += log_p[label].exp().detach() * squares
    assert squared.rows == 4
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_gradients_of_the_model_are_left_as_they_were(kind):
    model = tiny_model(kind)
    parameters = dict(model.named_parameters())
    kept = next(iter(parameters))
    parameters[kept].grad = torch.full_like(parameters[kept], 7.0)
    SquaredGradients(model, parameters).add(lambda: losses_of(model, padded_batch()))
    assert bool((parameters[kept].grad == 7.0).all())
    assert [name for name, parameter in parameters.items() if parameter.grad is not None] == [kept]


def test_hooks_are_gone_after_a_failed_forward_pass(bert):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    with pytest.raises(IndexError):
        squared.add(lambda: losses_of(bert, (padded_batch()[0] + VOCABULARY, *padded_batch()[1:])))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bert.modules())


def test_frozen_parameters_stay_zero_and_their_modules_are_not_hooked():
    model, batch = tiny_model("bert"), padded_batch()
    model.bert.requires_grad_(False)
    model.bert.encoder.layer[1].output.dense.bias.requires_grad_(True)
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    hooked = []

    def losses():
        hooked.extend(name for name, module in model.named_modules() if module._forward_hooks)
        return losses_of(model, batch)

    squared.add(losses)
    assert hooked == ["bert.encoder.layer.1.output.dense", "classifier"]
    trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    expected = row_by_row(lambda row: losses_of(model, row_of(batch, row)), 4, trainable)
    assert_same({name: squared.sums[name] for name in trainable}, expected)
    assert all(not bool(value.any()) for name, value in squared.sums.items() if name not in trainable)


def test_a_parameter_without_gradient_gives_zeros(bert):
    parameters = {"used": bert.bert.pooler.dense.weight, "unused": bert.classifier.weight}
    squared = SquaredGradients(bert, parameters)
    ids, mask, _ = padded_batch()
    squared.add(lambda: bert.bert(input_ids=ids, attention_mask=mask).pooler_output.sum(1))
    assert squared.exact_hooks
    assert bool(squared.sums["used"].any())
    assert not bool(squared.sums["unused"].any())


def test_sums_are_single_precision_whatever_the_model(bert):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    squared.add(lambda: losses_of(bert, padded_batch()))
    assert {value.dtype for value in squared.sums.values()} == {torch.float32}


def test_recording_is_on_even_where_the_caller_switched_it_off(bert):
    squared = SquaredGradients(bert, {"head": bert.classifier.weight})
    with torch.no_grad():
        squared.add(lambda: losses_of(bert, padded_batch()))
    assert bool(squared.sums["head"].any())


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


def padding_entry():
    return Small(lambda model, ids: model.padded(ids), padded=nn.Embedding(VOCABULARY, 6, padding_idx=PAD))


def small_case(model, ids):
    labels = torch.arange(len(ids)) % NUM_LABELS
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    squared.add(lambda: cross_entropy(model(input_ids=ids), labels, reduction="none"))
    expected = row_by_row(
        lambda row: cross_entropy(model(input_ids=ids[row : row + 1]), labels[row : row + 1]), len(ids), parameters
    )
    return squared, expected


@pytest.mark.parametrize("num_rows", [4, 9])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (bare_parameter, "shift"),
        (called_twice, "mix"),
        (tied_modules, "tokens.weight"),
        (used_without_call, "tokens"),
        (positions_without_rows, "positions"),
        (relative_bias, "bias"),
        (places_first, "mix"),
    ],
)
def test_what_hooks_cannot_see_goes_row_by_row_and_is_right(kind, name, num_rows):
    ids = padded_batch(tuple(range(9, 9 - num_rows, -1)))[0]
    squared, expected = small_case(kind(), ids)
    assert squared.slow_modules == [name]
    assert_same(squared.sums, expected)


@pytest.mark.parametrize(("kind", "name"), [(positions_without_rows, "positions"), (relative_bias, "bias")])
def test_tables_without_a_row_axis_are_seen_in_texts_of_one_token(kind, name):
    squared, expected = small_case(kind(), torch.tensor([[5], [6], [7]]))
    assert squared.slow_modules == [name]
    assert_same(squared.sums, expected)


def test_a_layout_that_shows_only_in_a_later_batch_is_seen_there():
    model, ids = positions_without_rows(), padded_batch()[0]
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    batches = [ids[:1, :1], ids]
    assert [squared.add(lambda batch=batch: model(input_ids=batch).sum(1)) for batch in batches] == [True, False]
    expected = row_by_row(lambda i: model(input_ids=[*batches[0], *batches[1]][i][None]).sum(), 5, parameters)
    assert_same(squared.sums, expected)


def test_a_parameter_requested_under_two_names_has_two_sums():
    model, ids = Small(), padded_batch()[0]
    squared = SquaredGradients(model, {"one": model.head.bias, "two": model.head.bias})
    assert not squared.add(lambda: model(input_ids=ids).sum(1))
    assert bool(squared.sums["one"].any())
    assert torch.equal(squared.sums["one"], squared.sums["two"])


def test_a_hook_of_the_user_that_changes_an_output_is_allowed_for():
    model = Small()
    model.head.register_forward_hook(lambda _module, _args, output: output * 3.0)
    squared, expected = small_case(model, padded_batch()[0])
    assert squared.exact_hooks
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("kind", [Small, in_place, norm_without_bias, padding_entry, shifted_norm])
def test_plain_layers_are_hooked_and_right(kind):
    squared, expected = small_case(kind(), padded_batch()[0])
    assert squared.exact_hooks
    assert_same(squared.sums, expected)


@pytest.mark.parametrize("parts", [{}, {"shift": nn.Parameter(torch.zeros(6))}], ids=["hooked", "row by row"])
def test_gradient_checkpointing_is_refused_rather_than_taken_for_an_unused_layer(parts):
    start = torch.ones(6, dtype=torch.float64, requires_grad=True)
    model = Small(lambda model, ids: checkpoint(lambda x: model.tokens(ids) * x, start, use_reentrant=True), **parts)
    squared = SquaredGradients(model, dict(model.named_parameters()))
    with pytest.raises(ValueError, match="gradient checkpointing must be off"):
        squared.add(lambda: model(input_ids=padded_batch()[0]).sum(1))


@pytest.mark.parametrize(("outputs", "inputs"), [(600, 500), (5, 700_000)])
def test_layers_larger_than_the_work_space_are_cut_in_pieces(outputs, inputs):
    torch.manual_seed(0)
    layer, values = nn.Linear(inputs, outputs), torch.randn(3, 2, inputs)
    squared = SquaredGradients(layer, {"weight": layer.weight})
    squared.add(lambda: layer(values).tanh().sum((1, 2)))
    expected = row_by_row(lambda row: layer(values[row : row + 1]).tanh().sum(), 3, {"weight": layer.weight})
    assert_same(squared.sums, expected, rtol=1e-4, atol=1e-6)


def test_the_slow_way_is_announced_once_with_its_reason(caplog):
    parts = {"shift": nn.Parameter(torch.randn(6)), "scale": nn.Parameter(torch.randn(6))}
    model = Small(lambda model, ids: model.tokens(ids) * model.scale + model.shift, **parts)
    ids = padded_batch()[0]
    with caplog.at_level(logging.WARNING):
        squared = SquaredGradients(model, dict(model.named_parameters()))
        for _ in range(2):
            squared.add(lambda: model(input_ids=ids).sum(1))
    assert [record.name for record in caplog.records] == ["cl_mlm.mechanisms.per_example"]
    assert "slow" in caplog.text
    assert "shift: no rule for Small" in caplog.text


def test_the_fast_way_says_nothing(caplog, bert):
    SquaredGradients(bert, dict(bert.named_parameters())).add(lambda: losses_of(bert, padded_batch()))
    assert not caplog.records


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda losses: losses.sum(), r"losses must be \(rows,\)"),
        (lambda losses: losses.detach(), "depend on the parameters"),
        (lambda losses: (losses, torch.ones(3)), r"weights must be \(4,\)"),
        (lambda losses: (losses, torch.tensor([1.0, 1.0, -0.5, 1.0])), "weights must be >= 0, got -0.5"),
    ],
)
def test_wrong_losses_and_weights_are_refused(bert, result, message):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    with pytest.raises(ValueError, match=message):
        squared.add(lambda: result(losses_of(bert, padded_batch())))
    assert squared.rows == 0
