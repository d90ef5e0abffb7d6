import json

import numpy as np
import pytest

from benchmarks.objectives import (
    arguments,
    binomial_error,
    compared,
    config_of,
    majority,
    merged,
    paired_error,
    standard_error,
    table,
    tasks,
)
from cl_mlm.config.components import make_objective
from cl_mlm.config.loading import load_config

ROWS = 400


def hits_of(share, rows=ROWS):
    return [i < share * rows for i in range(rows)]


def accuracy(predictions, references):
    return sum(x == y for x, y in zip(predictions, references, strict=True)) / len(references)


def test_the_binomial_error_is_that_of_a_fraction_and_never_zero():
    assert binomial_error(hits_of(0.8)) == pytest.approx((0.8 * 0.2 / ROWS) ** 0.5, rel=0.01)
    assert binomial_error(hits_of(1.0)) > 0


def test_the_paired_error_is_that_of_the_difference_row_by_row():
    after, before = [1, 1, 1, 0] * 100, [0, 1, 1, 1] * 100
    # Differences 1, 0, 0, -1: variance 1/2.
    assert paired_error(after, before) == pytest.approx((0.5 / ROWS) ** 0.5, rel=0.01)
    assert paired_error([1] * 50, [0] * 50) == 1 / 50


def test_the_bootstrap_agrees_with_the_binomial_error_where_both_apply():
    references = ["a"] * ROWS
    after = ["a" if hit else "b" for hit in hits_of(0.7)]
    alone = standard_error(accuracy, after, None, references)
    assert alone == pytest.approx(binomial_error(hits_of(0.7)), rel=0.25)


def test_the_bootstrap_takes_the_same_rows_before_and_after():
    references = ["a"] * ROWS
    predictions = ["a" if hit else "b" for hit in hits_of(0.7)]
    assert standard_error(accuracy, predictions, predictions, references) == 1 / ROWS  # no spread: its lower bound


def test_a_stage_is_compared_with_itself_before_training():
    objective = make_objective("classification", {})
    references = ["a", "b"] * 50
    found = compared(objective, ("a", "b"), references, ["a"] * 100, references)
    assert (found["before"], found["after"], found["control"], found["measured"]) == (0.5, 1.0, 0.5, True)
    assert found["error"] == pytest.approx(np.std([0, 1] * 50, ddof=1) / 10)
    assert found["gain"] == pytest.approx(0.5 / found["error"])


def test_a_stage_whose_labels_were_not_known_is_compared_with_the_most_frequent_label():
    objective = make_objective("relation", {})
    references = ["a"] * 60 + ["b"] * 40
    found = compared(objective, ("a", "b"), ["a"] * 100, None, references)
    assert (found["before"], found["gain"], found["measured"]) == (0.6, 0, False)


def test_entities_that_were_not_known_are_compared_with_zero_and_resampled():
    objective = make_objective("tagging", {})
    right, wrong = ["B-x", "I-x", "O"], ["O", "O", "O"]
    found = compared(objective, ("x",), [right] * 30 + [wrong] * 10, None, [right] * 40)
    assert found["before"] == 0.0
    assert found["after"] == pytest.approx(2 * 0.75 / 1.75)
    assert 0.02 < found["error"] < 0.09
    assert "control" not in found


def test_a_model_that_writes_one_text_for_all_rows_gains_nothing_over_its_control():
    objective = make_objective("text_to_text", {"metric": "exact_match"})
    references = ["a", "b"] * 20
    constant = compared(objective, (), ["a"] * 40, ["z"] * 40, references)
    assert (constant["after"], constant["control"], constant["over_control"]) == (0.5, 0.5, 0.0)
    assert constant["gain"] > 3
    reading = compared(objective, (), references, ["z"] * 40, references)
    assert reading["control"] == 0.0
    assert reading["over_control"] > 3


def test_without_a_spread_a_gain_is_counted_in_rows():
    objective = make_objective("tagging", {})
    right, wrong = [["B-x"]] * 5, [["O"]] * 5
    assert compared(objective, ("x",), wrong, None, right)["gain"] == 0
    assert compared(objective, ("x",), right, wrong, right)["gain"] == pytest.approx(5)


def test_majority_is_the_share_of_the_most_frequent_label():
    assert majority(["a", "b", "b", "c"]) == 0.5


def stage(after, gain, **more):
    return {"before": 0.5, "after": after, "error": 0.02, "gain": gain, "rows": 100, **more}


def test_the_table_shows_the_least_gain_over_stages_and_seeds():
    seeds = {0: [stage(0.8, 9.0), stage(0.9, 12.0)], 1: [stage(0.6, 2.5), stage(0.7, 5.0)]}
    text = table({"mine": {"objective": "tagging", "model": "tiny", "seeds": seeds}})
    row = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert row == ["mine", "tagging", "tiny", "2", "100", "50.0", "75.0 ± 14.1", "2.0", "2.5", "–", "–", "**no**"]
    assert {line.count("|") for line in text.splitlines()} == {13}


def test_the_table_shows_the_control_and_a_range_of_rows_where_they_differ():
    more = {"control": 0.5, "over_control": 7.0}
    seeds = {0: [stage(0.8, 9.0, **more), stage(0.8, 4.0, **more) | {"rows": 90}]}
    row = table({"mine": {"objective": "relation", "model": "tiny", "seeds": seeds}}).splitlines()[-1]
    assert "| 90-100 | 50.0 | 80.0 | 2.0 | 4.0 | 50.0 | 7.0 | yes |" in row


def test_merging_keeps_what_later_parts_do_not_name():
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


@pytest.mark.parametrize("name", list(tasks()))
def test_every_task_is_a_config_that_can_be_loaded(name, tmp_path):
    options = arguments(["training.steps=3", "--data", str(tmp_path), "--model", "encoder", "--only", name])
    config = load_config(config_of(name, options, 1), options.overrides)
    assert (config.seed, config.training.steps, config.evaluation.splits) == (1, 3, ["test"])
    assert config.strategies == {}


def test_a_trial_sees_no_test_row(tmp_path):
    options = arguments(["--data", str(tmp_path), "--validation"])
    assert config_of("sst2", options, 0)["evaluation"]["splits"] == ["validation"]


def test_tasks_are_plain_values():
    assert json.loads(json.dumps(tasks())) == tasks()
