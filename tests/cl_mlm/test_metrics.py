import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cl_mlm import metrics
from cl_mlm.metrics import (
    DEFINITIONS,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    mean_interval,
    stage_averages,
    summarise,
)

NAN = math.nan
THREE = np.array([[0.9, NAN, NAN], [0.6, 0.8, NAN], [0.7, 0.5, 1.0]])
FULL = np.array([[0.9, 0.3, 0.2], [0.6, 0.8, 0.4], [0.7, 0.5, 1.0]])
JOINT = np.array([[NAN] * 3, [NAN] * 3, [0.9, 0.8, 0.7]])
BASELINE = np.array([0.1, 0.2, 0.3])

# Exact match in percent, stage j after stage i, of the O-LoRA authors' own logs (github cmnfriend/O-LoRA,
# logs_and_outputs/order1_*/outputs/*/all_results.json): dbpedia, amazon, yahoo, agnews.
SEQ_FT = [
    [97.0132, NAN, NAN, NAN],
    [89.1053, 55.25, NAN, NAN],
    [74.7632, 53.4474, 72.2763, NAN],
    [79.5263, 52.6711, 48.8421, 90.0263],
]
O_LORA = [
    [98.7105, NAN, NAN, NAN],
    [98.5526, 57.7632, NAN, NAN],
    [97.4079, 57.4079, 71.9079, NAN],
    [97.7368, 56.0658, 71.0395, 88.6184],
]
INC_LORA = [
    [98.7105, NAN, NAN, NAN],
    [82.4737, 57.0132, NAN, NAN],
    [80.7763, 44.9474, 72.3816, NAN],
    [79.5, 40.8158, 64.1447, 90.0132],
]
SEQ_LORA = [
    [98.7105, NAN, NAN, NAN],
    [87.0789, 58.4737, NAN, NAN],
    [NAN, NAN, NAN, NAN],
    [59.0526, 39.7105, 62.5395, 90.1974],
]
PUBLISHED = [
    (SEQ_FT, 67.76645, 75.94656666666667, -14.5, 14.5, 78.64145),
    (O_LORA, 78.365125, 82.70202291666666, -1.1798333333333275, 1.1798333333333275, 79.25),
    (INC_LORA, 68.618425, 75.77686875, -14.548266666666665, 14.548266666666665, 79.529625),
]

scores = st.floats(0, 1)
# A busy machine is no failure, and examples need no folder of their own.
quick = settings(max_examples=60, deadline=None, database=None)
squares = st.integers(2, 6).flatmap(lambda size: arrays(np.float64, (size, size), elements=scores))


@pytest.mark.parametrize(("matrix", "final", "incremental", "backward", "forgotten", "learned"), PUBLISHED)
def test_metrics_of_released_logs_are_reproduced(matrix, final, incremental, backward, forgotten, learned):
    assert average_accuracy(matrix) == pytest.approx(final, abs=1e-6)
    assert average_incremental_accuracy(matrix) == pytest.approx(incremental, abs=1e-6)
    assert backward_transfer(matrix) == pytest.approx(backward, abs=1e-6)
    assert forgetting(matrix) == pytest.approx(forgotten, abs=1e-6)
    assert learning_accuracy(matrix) == pytest.approx(learned, abs=1e-6)


def test_a_lost_row_leaves_only_the_final_average_defined():
    values, reasons = summarise(SEQ_LORA, None)
    assert values["average_accuracy"] == pytest.approx(62.875, abs=1e-6)
    assert all(math.isnan(value) for name, value in values.items() if name != "average_accuracy")
    assert reasons["forgetting"] == "rows of stages [2] are not measured"


def test_average_accuracy_is_the_mean_of_the_last_row():
    assert average_accuracy(THREE) == pytest.approx((0.7 + 0.5 + 1.0) / 3)


def test_average_incremental_accuracy_weighs_every_stage_alike():
    assert average_incremental_accuracy(FULL) == pytest.approx((0.9 + 0.7 + 2.2 / 3) / 3)


def test_backward_transfer_leaves_the_last_column_out():
    assert backward_transfer(THREE) == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)


def test_forward_transfer_compares_the_score_before_learning_with_the_baseline():
    assert forward_transfer(FULL, BASELINE) == pytest.approx(((0.3 - 0.2) + (0.4 - 0.3)) / 2)


def test_forgetting_is_measured_from_the_best_score_before_the_last_stage():
    matrix = [[0.5, NAN, NAN], [0.9, 0.8, NAN], [0.7, 0.5, 1.0]]
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)


def test_forgetting_does_not_count_scores_from_before_a_column_was_learned():
    matrix = [[0.5, 0.99, 0.0], [0.5, 0.4, 0.0], [0.5, 0.4, 0.0]]
    assert forgetting(matrix) == 0.0


def test_forgetting_is_negative_where_scores_rise_at_the_end():
    assert forgetting([[0.5, NAN], [0.7, 0.9]]) == pytest.approx(-0.2)


def test_learning_accuracy_is_the_mean_of_the_diagonal():
    assert learning_accuracy(THREE) == pytest.approx((0.9 + 0.8 + 1.0) / 3)


def test_stage_averages_take_the_columns_learned_so_far():
    assert stage_averages(FULL) == pytest.approx([0.9, 0.7, 2.2 / 3])


@pytest.mark.parametrize("probe", [None, -1])
def test_probes_are_left_out_of_every_metric(probe):
    with_probe = np.insert(FULL, 1, [0.0, 1.0, 0.0], axis=1)
    found = summarise(with_probe, np.insert(BASELINE, 1, 0.5), [0, probe, 1, 2])
    assert found == summarise(FULL, BASELINE)


def test_a_column_learned_at_a_later_stage_counts_from_there():
    matrix = [[0.1, 0.2], [0.8, 0.3], [0.6, 0.9]]
    assert backward_transfer(matrix, [1, 2]) == pytest.approx(0.6 - 0.8)
    assert forward_transfer(matrix, [0.0, 0.0], [1, 2]) == pytest.approx((0.1 + 0.3) / 2)
    assert average_incremental_accuracy(matrix, [1, 2]) == pytest.approx((0.8 + 0.75) / 2)


def test_columns_of_stages_not_yet_trained_are_left_out():
    assert summarise(FULL[:2], BASELINE) == summarise(FULL[:2, :2], BASELINE[:2])


@pytest.mark.parametrize("name", ["backward_transfer", "forward_transfer", "forgetting"])
def test_one_stage_has_no_transfer_and_says_why(name):
    values, reasons = summarise([[0.8]], [0.1])
    assert math.isnan(values[name])
    assert reasons[name] == "needs two stages"


def test_one_stage_has_averages():
    values, _ = summarise([[0.8]], [0.1])
    assert values["average_accuracy"] == values["learning_accuracy"] == values["average_incremental_accuracy"] == 0.8


def test_joint_training_has_a_final_average_only_and_says_why():
    values, reasons = summarise(JOINT, BASELINE)
    assert values["average_accuracy"] == pytest.approx(0.8)
    assert set(reasons) == set(DEFINITIONS) - {"average_accuracy"}
    assert set(reasons.values()) == {"rows of earlier stages are not measured (joint)"}


def test_forward_transfer_without_baseline_is_undefined_and_says_why():
    values, reasons = summarise(THREE, None)
    assert math.isnan(values["forward_transfer"])
    assert reasons == {"forward_transfer": "baseline has no meaning before the labels are seen"}


def test_forward_transfer_needs_the_score_before_learning():
    values, reasons = summarise(THREE, BASELINE)
    assert math.isnan(values["forward_transfer"])
    assert "labels unseen" in reasons["forward_transfer"]


def test_one_missing_final_score_makes_the_average_undefined():
    matrix = FULL.copy()
    matrix[2, 1] = NAN
    values, reasons = summarise(matrix, BASELINE)
    assert math.isnan(values["average_accuracy"])
    assert reasons["average_accuracy"] == "a score that the definition needs is not measured"


@pytest.mark.parametrize("matrix", [[], np.empty((0, 3)), [[NAN, NAN, NAN]]])
def test_nothing_measured_is_undefined_and_not_an_error(matrix):
    num_columns = metrics.as_matrix(matrix).shape[1]
    values, reasons = summarise(matrix, None)
    assert all(math.isnan(value) for value in values.values())
    assert set(reasons) == set(DEFINITIONS)
    assert math.isnan(forward_transfer(matrix, np.zeros(num_columns)))


def test_only_probes_leave_every_metric_undefined():
    values, reasons = summarise(FULL, BASELINE, [None, None, None])
    assert all(math.isnan(value) for value in values.values())
    assert set(reasons.values()) == {"no column counts as learned"}


def test_columns_all_learned_at_the_last_stage_have_no_forgetting():
    _, reasons = summarise(FULL, BASELINE, [2, 2, 2])
    assert reasons["forgetting"] == "no column is learned before the last stage"


def test_columns_all_learned_at_the_first_stage_have_no_forward_transfer():
    _, reasons = summarise(FULL, BASELINE, [0, 0, 0])
    assert reasons == {"forward_transfer": "every column is learned at the first stage"}


def test_none_stands_for_not_measured():
    assert average_accuracy([[0.9, None], [0.6, 0.8]]) == pytest.approx(0.7)


def test_home_of_another_length_is_refused():
    with pytest.raises(ValueError, match="home: must have one entry for each of 3 columns, got 2"):
        average_accuracy(FULL, [0, 1])


def test_baseline_of_another_length_is_refused():
    with pytest.raises(ValueError, match="baseline: must have one entry for each of 3 columns"):
        forward_transfer(FULL, [0.1])


def test_every_metric_has_a_definition_and_no_other():
    assert list(summarise(FULL, BASELINE)[0]) == list(DEFINITIONS)


@quick
@given(squares)
def test_forgetting_is_zero_when_scores_never_drop_and_end_where_they_were(matrix):
    rising = np.maximum.accumulate(matrix, axis=0)
    rising[-1] = rising[-2]
    assert forgetting(rising) == 0.0


@quick
@given(squares)
def test_forgetting_is_never_positive_when_scores_never_drop(matrix):
    assert forgetting(np.maximum.accumulate(matrix, axis=0)) <= 0.0


@quick
@given(squares)
def test_backward_transfer_is_minus_forgetting_when_scores_only_fall(matrix):
    falling = np.minimum.accumulate(matrix, axis=0)
    assert backward_transfer(falling) == pytest.approx(-forgetting(falling), abs=1e-12)


@quick
@given(squares)
def test_forgetting_is_at_least_minus_backward_transfer(matrix):
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12


@quick
@given(squares)
def test_what_is_above_the_diagonal_matters_to_forward_transfer_only(matrix):
    lower = np.where(np.tri(len(matrix), dtype=bool), matrix, NAN)
    full, partial = summarise(matrix, matrix[0])[0], summarise(lower, matrix[0])[0]
    assert {name for name in full if full[name] != partial[name]} == {"forward_transfer"}


@quick
@given(squares, st.floats(-1, 1))
def test_differences_do_not_change_when_every_score_moves_alike(matrix, offset):
    assert forgetting(matrix + offset) == pytest.approx(forgetting(matrix), abs=1e-12)
    assert backward_transfer(matrix + offset) == pytest.approx(backward_transfer(matrix), abs=1e-12)
    assert average_accuracy(matrix + offset) == pytest.approx(average_accuracy(matrix) + offset, abs=1e-12)


@quick
@given(squares, st.data())
def test_the_order_of_columns_does_not_matter(matrix, data):
    order = data.draw(st.permutations(range(len(matrix))))
    shuffled, expected = summarise(matrix[:, order], matrix[0, order], order)[0], summarise(matrix, matrix[0])[0]
    assert shuffled == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("num_values", "quantile"), [(2, 12.706204736), (3, 4.302652730), (5, 2.776445105), (11, 2.228138852)]
)
def test_interval_uses_the_tabled_quantile_of_students_t(num_values, quantile):
    values = [float(k) for k in range(num_values)]
    mean, half = mean_interval(values)
    assert mean == pytest.approx((num_values - 1) / 2)
    assert half == pytest.approx(quantile * np.std(values, ddof=1) / math.sqrt(num_values), rel=1e-8)


def test_interval_widens_with_confidence():
    values = [0.1, 0.2, 0.4]
    assert mean_interval(values, 0.99)[1] == pytest.approx(
        9.924843201 * np.std(values, ddof=1) / math.sqrt(3), rel=1e-8
    )


def test_one_value_has_a_mean_and_no_interval():
    mean, half = mean_interval([0.4])
    assert mean == 0.4
    assert math.isnan(half)


@pytest.mark.parametrize("values", [[], [0.4, NAN]])
def test_mean_over_nothing_or_a_missing_value_is_undefined(values):
    assert all(math.isnan(number) for number in mean_interval(values))
