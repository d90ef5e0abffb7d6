import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cl_mlm.batch import Outputs
from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.regression import Regression
from cl_mlm.scores.correlation import mean_ranks, pearson, spearman

OBJECTIVE = Regression()
ROWS = {"text": ["ice", "sun and sun", "drum"], "value": [0.5, 2, "1.25"]}


def batch_of(rows=ROWS):
    tokenizer = letter_tokenizer()
    encoded = OBJECTIVE.encode(rows, tokenizer, {}, 32)
    return OBJECTIVE.collate(encoded, torch.arange(len(rows["text"])), tokenizer)


def random_columns(number, ties):
    random = torch.Generator().manual_seed(number)
    first = torch.randn(number, generator=random, dtype=torch.float64)
    second = first + torch.randn(number, generator=random, dtype=torch.float64)
    if ties:
        first, second = first.round(), second.round()
    return first.tolist(), second.tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("number", [2, 7, 200])
def test_correlations_are_those_of_scipy(number, ties):
    stats = pytest.importorskip("scipy.stats")
    first, second = random_columns(number, ties)
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_correlations_worked_out_by_hand():
    # Deviations (-1, 0, 1) and (-2, -1, 3): 5 / sqrt(2 * 14). The ranks of both are (1, 2, 3).
    assert pearson([1, 2, 3], [1, 2, 6]) == pytest.approx(5 / math.sqrt(28))
    assert spearman([1, 2, 3], [1, 2, 6]) == pytest.approx(1)
    assert pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_equal_numbers_share_their_mean_rank():
    assert mean_ranks([5, 1, 5, 3, 5]).tolist() == [4, 1, 4, 2, 4]


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_column_that_does_not_vary_has_correlation_zero(correlation):
    assert correlation([0.1] * 3, [1, 2, 3]) == correlation([1, 2, 3], [7] * 3) == correlation([1], [2]) == 0


def test_correlation_of_tiny_and_of_huge_numbers_is_right():
    assert pearson([1e-200, 2e-200, 3e-200], [1e200, 2e200, 6e200]) == pytest.approx(5 / math.sqrt(28))


@pytest.mark.parametrize(("correlation", "rho"), [("pearson", 5 / math.sqrt(28)), ("spearman", 1.0)])
def test_score_is_the_chosen_correlation_moved_to_0_1(correlation, rho):
    found = Regression(correlation).score([1, 2, 6], [1, 2, 3], [])
    assert found["score"] == pytest.approx((1 + rho) / 2)
    assert found["pearson"] == pytest.approx(5 / math.sqrt(28))
    assert found["spearman"] == pytest.approx(1)
    assert found["mse"] == pytest.approx(3)


def test_score_of_a_constant_prediction_is_one_half():
    assert OBJECTIVE.score([1, 1], [0, 3], []) == {"score": 0.5, "pearson": 0, "spearman": 0, "mse": 2.5}


def test_mean_loss_is_the_models_own(model_folder):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder("bert"), num_labels=1, problem_type="regression"
    ).eval()
    batch = batch_of()
    with torch.no_grad():
        found = model(**batch.inputs, labels=batch.targets)
    losses = OBJECTIVE.loss(Outputs(found.logits, lambda: found.logits), batch)
    assert losses.shape == (3,)
    assert float(losses.sum() / batch.count.sum()) == pytest.approx(float(found.loss), rel=1e-6)
    assert losses.tolist() == pytest.approx(((found.logits[:, 0] - torch.tensor([0.5, 2, 1.25])) ** 2).tolist())


def test_prediction_is_the_models_output():
    logits = torch.tensor([[0.25], [-3.0], [2.0]])
    run = SimpleNamespace(forward=lambda _: Outputs(logits, lambda: logits))
    assert OBJECTIVE.predict(run, batch_of()).values == [0.25, -3.0, 2.0]


def test_values_are_read_from_numbers_and_from_strings():
    assert batch_of().targets.tolist() == [0.5, 2.0, 1.25]
    assert OBJECTIVE.references(ROWS) == [0.5, 2.0, 1.25]


def test_the_model_has_one_output_and_no_classes():
    assert OBJECTIVE.num_outputs(["a", "b"]) == 1
    assert OBJECTIVE.classes(["a", "b"]) == []
    assert OBJECTIVE.target_classes(batch_of(), 0).shape == (3, 0)


def test_there_is_nowhere_to_choose():
    with pytest.raises(ConfigError, match="objective regression: its answer is a number"):
        OBJECTIVE.sites(Outputs(torch.zeros(3, 1), lambda: torch.zeros(0)), batch_of())


def test_sound_rows_have_no_faults():
    assert OBJECTIVE.validate({**ROWS, "text_pair": ["a"] * 3}, "here") == []


@pytest.mark.parametrize("wrong", [None, "high", "", "nan", float("inf"), float("nan"), True, [1], "1_0", 10**400])
def test_a_value_that_is_no_finite_number_is_named_with_its_row(wrong):
    rows = {"text": ["a", "b"], "value": [1, wrong]}
    expected = f"here: value must be a number of at most 1e+15 in size, got {wrong!r} in row 1 (1 such rows)"
    assert OBJECTIVE.validate(rows, "here") == [expected]


def test_a_decimal_comma_is_told():
    problems = OBJECTIVE.validate({"text": ["a", "b"], "value": ["1.5", "2,5"]}, "here")
    assert problems[0].endswith("got '2,5' in row 1 (1 such rows); write a point for the decimal comma")


def test_faults_of_texts_and_a_missing_value_are_named():
    problems = OBJECTIVE.validate({"text": [""]}, "here")
    assert problems[0].startswith("here: text must be a non-empty string, got '' in row 0")
    assert problems[1] == "here: needs the column value"


def test_an_unknown_correlation_is_named():
    assert Regression("kendall").faults(128) == ["correlation: must be pearson or spearman, got 'kendall'"]
    assert Regression("spearman").faults(128) == []


def test_a_pair_has_a_key_of_its_own():
    assert OBJECTIVE.key({"text": ["a"], "text_pair": ["b"]}) != OBJECTIVE.key({"text": ["a b"]})


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_values_come_through_files(ending, tmp_path):
    from cl_mlm.data.files import read_table
    from cl_mlm.tokens.encoding import encode_rows

    lines = {
        "jsonl": '{"text": "ice", "value": 1}\n{"text": "sun", "value": 2.5}\n',
        "csv": "text,value\nice,1\nsun,2.5\n",
    }
    path = tmp_path / f"train.{ending}"
    path.write_text(lines[ending])
    table = read_table(path, required=OBJECTIVE.columns)
    assert OBJECTIVE.validate(table[:], "here") == []
    rows = encode_rows(table, OBJECTIVE, letter_tokenizer(), {}, 32, f"regression {ending}")
    assert [float(rows.row(i)["target"]) for i in range(2)] == [1.0, 2.5]


def test_whole_numbers_first_do_not_cut_fractions_in_later_chunks(monkeypatch):
    from datasets import Dataset

    from cl_mlm.tokens import encoding

    monkeypatch.setattr(encoding, "CHUNK_ROWS", 1)
    table = Dataset.from_dict({"text": ["ice", "sun"], "value": ["1", "2.5"]})
    rows = encoding.encode_rows(table, OBJECTIVE, letter_tokenizer(), {}, 32, "regression chunks")
    assert [float(rows.row(i)["target"]) for i in range(2)] == [1.0, 2.5]


def test_a_correlation_never_leaves_its_range():
    """Rounding alone gives 1.0000000000000002 for some of these."""
    columns = np.random.default_rng(0).normal(size=(200, 7))
    found = [pearson(sign * column, 3 * column + 1) for column in columns for sign in (1, -1)]
    assert max(found) == 1.0
    assert min(found) == -1.0
