"""Finds labels that look the same: `refund`, `refund ` and full-width letters have one form and are meant as one label.

No function that cuts rows into stages separates such labels (`cut_spellings`). So the gate refuses them, or
`cl_mlm.data.label_folding` makes them one, when the stages are there already, whoever has built them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from cl_mlm.data.ordering import cut_labels
from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cl_mlm.objective import Objective, RawRows

MOST_LISTED = 5
JOINERS = "\u200c\u200d"
# Between two letters beyond ASCII a joiner changes how a word of Persian or an emoji looks; elsewhere nobody sees it.
IDLE_JOINERS = re.compile(f"(?<![^\x00-\x7f])[{JOINERS}]+|[{JOINERS}]+(?![^\x00-\x7f])")


def label_form(label: str) -> str:
    """Returns a label in NFKC, without invisible characters, with white space folded: equal for labels that look so."""
    if not label.isascii():
        normal = unicodedata.normalize("NFKC", label)
        visible = "".join(c for c in normal if c in JOINERS or unicodedata.category(c) != "Cf")
        label = unicodedata.normalize("NFKC", IDLE_JOINERS.sub("", visible))
    return " ".join(label.split())


def spellings(labels: Iterable[str]) -> dict[str, list[str]]:
    """Returns by form the labels that have it, sorted, the forms in the order of their first labels."""
    by_form: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        by_form.setdefault(label_form(label), []).append(label)
    return by_form


def one_spelling(labels: Iterable[str]) -> list[str]:
    """Returns the labels, sorted, and of those that look the same the first only."""
    return [alike[0] for alike in spellings(labels).values()]


def cut_spellings(
    labels: Iterable[str],
    per_stage: int | None,
    groups: Sequence[Sequence[str | int]] | None,
    order_seed: int | None,
    kind: str = "label",
    *,
    uneven: bool | None = None,
) -> list[list[str]]:
    """Returns the labels of every stage as `cut_labels` does; labels that look the same count once, in one stage.

    Args:
        labels: all, in any order.
        per_stage: how many labels a stage brings; None where `groups` is given.
        groups: the labels of every stage, each in any of its spellings.
        order_seed: shuffles the labels; not used with `groups`.
        kind: what a label is called in messages.
        uneven: whether the last stage may have fewer; None: no, and the stream has no such key.

    Raises:
        ConfigError: the labels cannot be cut like that.
    """
    by_form = spellings(labels)
    alike_of = {alike[0]: alike for alike in by_form.values()}
    if groups is not None:
        first = {form: alike[0] for form, alike in by_form.items()}
        groups = [[first.get(label_form(name), name) for name in _once(group)] for group in groups]
    try:
        cut = cut_labels(list(alike_of), per_stage, groups, order_seed, kind, uneven=uneven)
    except ConfigError as error:
        hints = [f"{kind}s that look the same count once: {_listed(a)}" for a in by_form.values() if len(a) > 1]
        raise ConfigError([*error.problems, *hints[:MOST_LISTED]]) from error
    return [[label for name in group for label in alike_of[name]] for group in cut]


def _once(group: Sequence[str | int]) -> list[str]:
    """Returns the labels of a group without further spellings of one; what is there twice stays there twice."""
    spelled: dict[str, str] = {}
    return [name for name in map(str, group) if spelled.setdefault(label_form(name), name) == name]


def with_forms(rows: RawRows, objective: Objective) -> RawRows:
    """Returns rows, which may have faults, with every label in its form."""
    try:
        labels = {label for row_labels in objective.labels_of(rows) for label in row_labels}
        names = {label: form for label in labels if (form := label_form(label)) != label}
    except (TypeError, ValueError, AttributeError, KeyError):
        return rows
    return {**rows, **objective.renamed(rows, names)} if names else rows


def form_faults(num_rows: Mapping[str, int]) -> dict[str, list[str]]:
    """Returns a fault for each set of labels that look the same, and for each that shows nothing, with those labels.

    Args:
        num_rows: label -> rows that have it.
    """
    faults = {}
    for form, alike in spellings(num_rows).items():
        shown = _listed(alike, num_rows)
        if not form:  # an empty text and white space are faults of their rows
            if any(label.strip() for label in alike):
                faults[f"labels must have a visible character, got {shown}"] = alike
        elif len(alike) > 1:
            faults[f"labels must not look the same, got {shown}; stream.labels=fold makes them one"] = alike
    return faults


def case_note(num_rows: Mapping[str, int]) -> list[str]:
    """Returns a note on labels that differ in upper and lower case only, where there are such: both stay."""
    by_case: dict[str, list[str]] = {}
    for form, alike in spellings(num_rows).items():
        by_case.setdefault(form.casefold(), []).append(alike[0])
    groups = [_listed(group, num_rows) for group in by_case.values() if len(group) > 1]
    if not groups:
        return []
    more = f" and {len(groups) - MOST_LISTED} more" if len(groups) > MOST_LISTED else ""
    return [f"labels that differ in upper and lower case only: {'; '.join(groups[:MOST_LISTED])}{more}"]


def counted(num_rows: Mapping[str, int]) -> str:
    """Returns labels with their numbers of rows, `'a' (3 rows), 'b' (1 row)`, the first five of many."""
    listed = [f"{label!r} ({number} row{'s' * (number != 1)})" for label, number in sorted(num_rows.items())]
    more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    return ", ".join(listed[:MOST_LISTED]) + more


def listing(items: Sequence[str], most: int = 10) -> str:
    """Returns texts in quotation marks, the first `most` of many."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(repr, items[:most])) + rest


def _listed(alike: Sequence[str], num_rows: Mapping[str, int] | None = None) -> str:
    """Returns labels so that they can be told apart, each with its number of rows where that is given."""
    shown = [repr(label) for label in alike]
    if len({unicodedata.normalize("NFC", text) for text in shown}) < len(shown):  # an accent is written in two ways
        shown = [ascii(label) for label in alike]
    if num_rows is not None:
        numbers = [num_rows[label] for label in alike]
        shown = [f"{text} ({n} row{'s' * (n != 1)})" for text, n in zip(shown, numbers, strict=True)]
    return " and ".join(shown)
