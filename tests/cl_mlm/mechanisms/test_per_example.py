"""Squared gradients per row against autograd, one row at a time."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoConfig, AutoModelForSequenceClassification

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


def losses_of(model, batch):
    ids, mask, labels = batch
    return cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels, reduction="none")


def row_of(batch, row):
    return tuple(tensor[row : row + 1] for tensor in batch)


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert")


@pytest.mark.parametrize("kind", CONFIGS)
def test_sums_equal_autograd_row_by_row(kind, padded_batch, row_by_row, assert_same):
    model, batch = tiny_model(kind), padded_batch()
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    assert squared.add(lambda: losses_of(model, batch))
    assert_same(squared.sums, row_by_row(lambda row: losses_of(model, row_of(batch, row)), 4, parameters))


@pytest.mark.parametrize("kind", CONFIGS)
def test_sums_equal_autograd_in_single_precision(kind, padded_batch, row_by_row, assert_same):
    model, batch = tiny_model(kind, torch.float32), padded_batch()
    parameters = dict(model.named_parameters())
    squared = SquaredGradients(model, parameters)
    squared.add(lambda: losses_of(model, batch))
    expected = row_by_row(lambda row: losses_of(model, row_of(batch, row)), 4, parameters)
    assert_same(squared.sums, expected, rtol=1e-4, atol=1e-6)


def test_batches_and_rows_add_up(bert, padded_batch, assert_same):
    parameters = dict(bert.named_parameters())
    whole, parts = SquaredGradients(bert, parameters), SquaredGradients(bert, parameters)
    batch = padded_batch()
    whole.add(lambda: losses_of(bert, batch))
    for rows in (slice(0, 1), slice(1, 4)):
        parts.add(lambda rows=rows: losses_of(bert, tuple(tensor[rows] for tensor in batch)))
    assert parts.rows == whole.rows == 4
    assert_same(parts.sums, whole.sums)


def test_weights_scale_the_squares(bert, padded_batch, squares_of, assert_same):
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
def test_several_losses_per_row_give_the_exact_fisher(kind, padded_batch, squares_of, assert_same):
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
def test_gradients_of_the_model_are_left_as_they_were(kind, padded_batch):
    model = tiny_model(kind)
    parameters = dict(model.named_parameters())
    kept = next(iter(parameters))
    parameters[kept].grad = torch.full_like(parameters[kept], 7.0)
    SquaredGradients(model, parameters).add(lambda: losses_of(model, padded_batch()))
    assert bool((parameters[kept].grad == 7.0).all())
    assert [name for name, parameter in parameters.items() if parameter.grad is not None] == [kept]


def test_hooks_are_gone_after_a_failed_forward_pass(bert, padded_batch):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    with pytest.raises(IndexError):
        squared.add(lambda: losses_of(bert, (padded_batch()[0] + VOCABULARY, *padded_batch()[1:])))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bert.modules())


def test_frozen_parameters_stay_zero_and_their_modules_are_not_hooked(padded_batch, row_by_row, assert_same):
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


def test_a_parameter_without_gradient_gives_zeros(bert, padded_batch):
    parameters = {"used": bert.bert.pooler.dense.weight, "unused": bert.classifier.weight}
    squared = SquaredGradients(bert, parameters)
    ids, mask, _ = padded_batch()
    squared.add(lambda: bert.bert(input_ids=ids, attention_mask=mask).pooler_output.sum(1))
    assert squared.exact_hooks
    assert bool(squared.sums["used"].any())
    assert not bool(squared.sums["unused"].any())


def test_sums_are_single_precision_whatever_the_model(bert, padded_batch):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    squared.add(lambda: losses_of(bert, padded_batch()))
    assert {value.dtype for value in squared.sums.values()} == {torch.float32}


def test_recording_is_on_even_where_the_caller_switched_it_off(bert, padded_batch):
    squared = SquaredGradients(bert, {"head": bert.classifier.weight})
    with torch.no_grad():
        squared.add(lambda: losses_of(bert, padded_batch()))
    assert bool(squared.sums["head"].any())


@pytest.mark.parametrize(("outputs", "inputs"), [(600, 500), (5, 700_000)])
def test_layers_larger_than_the_work_space_are_cut_in_pieces(outputs, inputs, row_by_row, assert_same):
    torch.manual_seed(0)
    layer, values = nn.Linear(inputs, outputs), torch.randn(3, 2, inputs)
    squared = SquaredGradients(layer, {"weight": layer.weight})
    squared.add(lambda: layer(values).tanh().sum((1, 2)))
    expected = row_by_row(lambda row: layer(values[row : row + 1]).tanh().sum(), 3, {"weight": layer.weight})
    assert_same(squared.sums, expected, rtol=1e-4, atol=1e-6)


def test_the_fast_way_says_nothing(caplog, bert, padded_batch):
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
def test_wrong_losses_and_weights_are_refused(bert, result, message, padded_batch):
    squared = SquaredGradients(bert, dict(bert.named_parameters()))
    with pytest.raises(ValueError, match=message):
        squared.add(lambda: result(losses_of(bert, padded_batch())))
    assert squared.rows == 0


def test_squares_of_an_embedding_are_the_same_on_several_threads_every_time():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(500, 64), nn.Linear(64, 2)

        def forward(self, ids):
            return self.head(self.table(ids)).sum((1, 2))

    torch.manual_seed(0)
    model, ids, threads = Bag(), torch.randint(0, 500, (128, 60)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = set()
        for _ in range(8):
            squares = SquaredGradients(model, dict(model.named_parameters()))
            assert squares.add(lambda: model(ids))
            runs.add(squares.sums["table.weight"].numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(runs) == 1
