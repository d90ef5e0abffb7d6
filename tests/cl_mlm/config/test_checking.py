"""Rules of checking plain values against annotations."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.config.checking import build, check, defaults, describe


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    inner: Inner = field(default_factory=Inner)
    sizes: list[int] = field(default_factory=lambda: [1, 2])


def checked(value: Any, annotation: Any, **bounds: float) -> tuple[Any, list[str]]:
    problems: list[str] = []
    return check("a.key", value, annotation, bounds, problems), problems


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (1.5, float),
        ("x", str),
        (False, bool),
        (None, int | None),
        ("b", Literal["a", "b"]),
        ([1, 2], list[int]),
        ([["a"], ["b"]], list[list[str]]),
        ({"a": 1}, dict[str, int]),
        (object(), Any),
    ],
)
def test_a_value_of_the_annotated_type_is_returned_as_it_is(value, annotation):
    assert checked(value, annotation) == (value, [])


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("3", int, "a.key: must be a whole number, got '3'"),
        (True, int, "a.key: must be a whole number, got True"),
        (1, bool, "a.key: must be true or false, got 1"),
        (2.0, int, "a.key: must be a whole number, got 2.0"),
        ("x", float | None, "a.key: must be a number or null, got 'x'"),
        (3, str, "a.key: must be a text, got 3"),
        ("a", list[str], "a.key: must be a list (a text each), got 'a'"),
        ([1, "b"], list[int], "a.key: must be a list (a whole number each), got [1, 'b']"),
        ([1], dict[str, int], "a.key: must be a mapping, got [1]"),
        ("fulll", Literal["full", "head"], "a.key: must be one of full, head, got 'fulll' (did you mean 'full'?)"),
    ],
)
def test_a_wrong_value_is_named_with_key_rule_and_what_is_near(value, annotation, message):
    assert checked(value, annotation) == (value, [message])


def test_a_whole_number_becomes_a_number_where_a_number_is_wanted():
    value, problems = checked(3, float)
    assert (type(value), value, problems) == (float, 3.0, [])


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (-1, {"min": 0}, "a.key: must be at least 0, got -1"),
        (2, {"max": 1}, "a.key: must be at most 1, got 2"),
        (0, {"above": 0}, "a.key: must be above 0, got 0"),
        (7, {"min": 0, "max": 1}, "a.key: must be at least 0 and at most 1, got 7"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_its_bounds(value, bounds, message):
    assert checked(value, int, **bounds)[1] == [message]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_must_be_finite_even_without_bounds(value):
    assert checked(value, float)[1] == [f"a.key: must be finite, got {value!r}"]


def test_bounds_hold_for_every_item_of_a_list():
    assert checked([1, 0, 2, -1], list[int], min=1)[1] == [
        "a.key: must be at least 1, got 0",
        "a.key: must be at least 1, got -1",
    ]


@given(st.integers(-50, 50), st.integers(-20, 20), st.integers(0, 20))
def test_bounds_are_inclusive(value, low, width):
    assert (checked(value, int, min=low, max=low + width)[1] == []) == (low <= value <= low + width)


def test_building_names_every_fault_with_its_path():
    problems: list[str] = []
    build("", {"name": 1, "inner": {"size": "x", "sise": 2}, "other": 3}, Outer, problems)
    assert problems == [
        "other: unknown key; allowed: name, inner, sizes",
        "name: must be a text, got 1",
        "inner.sise: unknown key (did you mean 'size'?); allowed: size",
        "inner.size: must be a whole number, got 'x'",
    ]


def test_a_section_must_be_a_mapping():
    problems: list[str] = []
    build("", {"inner": 3}, Outer, problems)
    assert problems == ["inner: must be a mapping, got 3"]


def test_defaults_are_nested_and_fresh_at_every_call():
    first = defaults(Outer)
    first["sizes"].append(3)
    assert defaults(Outer) == {"name": "x", "inner": {"size": 1}, "sizes": [1, 2]}


def test_every_annotation_of_a_config_has_words():
    assert describe(list[Literal["a", "b"]] | None) == "a list (one of a, b each) or null"
