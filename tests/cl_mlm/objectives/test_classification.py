import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cl_mlm.batch import Batch, Outputs
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification

OBJECTIVE = Classification()
LOGITS = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]]
# The first row belongs to a stage of the classes 0 and 1, the second to one of the classes 0 and 2.
ALLOWED = [[True, True, False], [True, False, True]]


def outputs_of(logits=LOGITS):
    return Outputs(torch.tensor(logits), lambda: torch.zeros(0))


def batch_of(targets, allowed=None):
    count = len(targets)
    mask = None if allowed is None else torch.tensor(allowed)
    return Batch({}, torch.tensor(targets), torch.arange(count), torch.ones(count), allowed=mask)


def softmax(logits, allowed=None):
    weights = [math.exp(x) if allowed is None or allowed[i] else 0.0 for i, x in enumerate(logits)]
    return [weight / sum(weights) for weight in weights]


def test_loss_is_the_cross_entropy_of_every_row():
    expected = [-math.log(softmax(LOGITS[0])[2]), -math.log(softmax(LOGITS[1])[1])]
    assert OBJECTIVE.loss(outputs_of(), batch_of([2, 1])).tolist() == pytest.approx(expected, rel=1e-6)


def test_loss_is_among_the_allowed_classes_only():
    expected = [-math.log(softmax(LOGITS[0], ALLOWED[0])[0]), -math.log(softmax(LOGITS[1], ALLOWED[1])[2])]
    assert OBJECTIVE.loss(outputs_of(), batch_of([0, 2], ALLOWED)).tolist() == pytest.approx(expected, rel=1e-6)


def test_classes_that_are_not_allowed_get_no_gradient():
    logits = torch.tensor(LOGITS, requires_grad=True)
    OBJECTIVE.loss(Outputs(logits, lambda: logits), batch_of([0, 2], ALLOWED)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == ALLOWED


def test_loss_of_half_precision_logits_is_in_single_precision():
    outputs = Outputs(torch.tensor(LOGITS, dtype=torch.bfloat16), lambda: torch.zeros(0))
    assert OBJECTIVE.loss(outputs, batch_of([2, 1])).dtype == torch.float32


def predicted_of(targets, allowed=None):
    run = SimpleNamespace(forward=lambda batch: outputs_of(), classes=["a", "b", "c"])
    return OBJECTIVE.predict(run, batch_of(targets, allowed))


def test_prediction_is_the_most_probable_class_with_its_probability():
    predicted = predicted_of([1, 1])
    assert predicted.values == ["c", "a"]
    assert predicted.probability.tolist() == pytest.approx([softmax(LOGITS[0])[2], softmax(LOGITS[1])[0]], rel=1e-6)


def test_prediction_is_among_the_allowed_classes_only():
    predicted = predicted_of([0, 2], ALLOWED)
    assert predicted.values == ["b", "a"]
    expected = [softmax(LOGITS[0], ALLOWED[0])[1], softmax(LOGITS[1], ALLOWED[1])[0]]
    assert predicted.probability.tolist() == pytest.approx(expected, rel=1e-6)


def test_prediction_tells_the_probability_of_the_reference():
    expected = [softmax(LOGITS[0])[0], softmax(LOGITS[1])[2]]
    assert predicted_of([0, 2]).reference_probability.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_reference_that_the_model_lacks_has_probability_zero():
    expected = [0.0, softmax(LOGITS[1])[2]]
    assert predicted_of([3, 2]).reference_probability.tolist() == pytest.approx(expected, rel=1e-6)


def test_sites_are_one_a_row_with_masked_logits():
    sites = OBJECTIVE.sites(outputs_of(), batch_of([0, 2], ALLOWED))
    assert sites.row.tolist() == [0, 1]
    assert sites.target.tolist() == [0, 2]
    assert sites.logits.tolist() == [[1.0, 2.0, -math.inf], [0.5, -math.inf, 0.0]]


def test_score_is_the_fraction_of_right_rows():
    score = OBJECTIVE.score(list("abcc"), list("accb"), ["a", "b", "c"])
    assert (score["score"], score["accuracy"]) == (0.5, 0.5)
    assert score["macro_f1"] == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_key_of_a_pair_holds_both_texts_in_order():
    single = OBJECTIVE.key({"text": ["a", "b"]})
    pairs = OBJECTIVE.key({"text": ["a", "b"], "text_pair": ["b", "a"]})
    assert single == ["a", "b"]
    assert len({*single, *pairs}) == 4


def test_key_does_not_join_other_pairs():
    first, second = OBJECTIVE.key({"text": ["a b", "a"], "text_pair": ["c", "b c"]})
    assert first != second


def test_sound_rows_have_no_faults():
    assert OBJECTIVE.validate({"text": ["a"], "text_pair": ["b"], "label": ["x"]}, "here") == []


def test_missing_columns_are_named():
    assert OBJECTIVE.validate({"text": ["a"]}, "here") == ["here: needs the columns text and label, has no label"]


@pytest.mark.parametrize("column", ["text", "text_pair", "label"])
@pytest.mark.parametrize("wrong", ["", "  \n", None, 3])
def test_an_empty_value_is_named_with_its_row(column, wrong):
    rows = {"text": ["a", "b"], "text_pair": ["c", "d"], "label": ["x", "y"]}
    rows[column][1] = wrong
    (problem,) = OBJECTIVE.validate(rows, "here")
    assert problem.startswith(f"here: {column} must be a non-empty string, got {wrong!r} in row 1 (")


def collated(pair=None):
    tokenizer = letter_tokenizer()
    rows = {"text": ["a", "a b c"], "label": ["y", "x"]} | ({"text_pair": pair} if pair else {})
    encoded = OBJECTIVE.encode(rows, tokenizer, {"x": 0, "y": 1}, 16)
    return OBJECTIVE.collate(encoded, torch.tensor([7, 9]), tokenizer), tokenizer


def test_collate_pads_on_the_right():
    batch, tokenizer = collated()
    expected = tokenizer(["a", "a b c"], padding=True, return_tensors="pt")
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"])
    assert torch.equal(batch.inputs["attention_mask"], expected["attention_mask"])
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_collate_keeps_the_token_types_of_pairs():
    batch, tokenizer = collated(["b", "c"])
    expected = tokenizer(["a", "a b c"], ["b", "c"], padding=True, return_tensors="pt")
    assert torch.equal(batch.inputs["token_type_ids"], expected["token_type_ids"])


def test_collate_counts_one_item_a_row_and_tokens_without_padding():
    batch, _ = collated()
    assert batch.count.tolist() == [1.0, 1.0]
    assert batch.num_tokens == 8
    assert batch.targets.tolist() == [1, 0]
    assert np.array_equal(batch.ids, [7, 9])
