import pytest

from cl_mlm.scores.labels import macro_f1, per_class


def test_per_class_numbers_by_hand():
    """a: 2 of 3 predicted are right, 2 of 3 present are found; b: 1 of 2 and 1 of 1."""
    rows = per_class(["a", "a", "a", "b", "b"], ["a", "a", "b", "a", "b"], ["a", "b"])
    a, b = rows
    assert a == {"label": "a", "precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(2 / 3), "rows": 3}
    assert b == {"label": "b", "precision": 1 / 2, "recall": 1 / 2, "f1": pytest.approx(1 / 2), "rows": 2}


def test_per_class_quotients_by_zero_are_none():
    never_predicted, absent, neither = per_class(["b", "b"], ["a", "a"], ["a", "b", "c"])
    assert never_predicted == {"label": "a", "precision": None, "recall": 0.0, "f1": 0.0, "rows": 2}
    assert absent == {"label": "b", "precision": 0.0, "recall": None, "f1": 0.0, "rows": 0}
    assert neither == {"label": "c", "precision": None, "recall": None, "f1": None, "rows": 0}


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    (row,) = per_class(["a", "a", "a", "a", "b"], ["a", "b", "b", "b", "a"], ["a"])
    assert (row["precision"], row["recall"]) == (1 / 4, 1 / 2)
    assert row["f1"] == pytest.approx(2 / (4 + 2))


def test_macro_f1_is_the_mean_over_the_labels_that_occur():
    """a: 2 of 4 and 2 of 3 (F1 4/7); b: 1 of 1 and 1 of 2 (2/3); c, present once, is never predicted (0)."""
    found = macro_f1(["a", "a", "a", "a", "b"], ["a", "a", "b", "c", "b"])
    assert found == pytest.approx((2 * 2 / (4 + 2) + 2 * 1 / (1 + 2) + 0) / 3)
