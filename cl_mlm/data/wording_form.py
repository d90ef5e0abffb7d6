"""Turns a stream into a text-to-text stream with templates: instructions around the columns of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.config.components import make_objective
from cl_mlm.data.split_owners import SplitOwner, split_owners, with_splits
from cl_mlm.data.tasks import identity
from cl_mlm.data.templates import ANSWER_COLUMNS
from cl_mlm.data.text_form import BETWEEN, PLAIN, TEXTS
from cl_mlm.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from datasets import Dataset

    from cl_mlm.data.templates import Template
    from cl_mlm.data.wordings import Wording, Wordings
    from cl_mlm.objective import Objective
    from cl_mlm.stream import Column, Stage, Stream

WRITTEN = ("source", "target")  # fields that an objective makes of a row, where it has a form as texts
CORPUS = "language_modelling"  # its rows have no answer


def worded(stream: Stream, wordings: Wordings) -> Stream:
    """Returns the stream with the columns `source` and `target`, as templates make them of the rows.

    A template of a source sees the columns of the row except its answer, `source` (the row as `as_text` writes it),
    `labels` (those of the row's stage) and `choices` (their words, with spaces for `_`). One of a target sees all
    columns, and `target`. Where a target depends on the label alone, the targets of all labels are the allowed answers.
    Stages of a corpus stay as they are. Stages have no labels any more, as with `as_text`.

    Raises:
        ConfigError: a stage without wording, a field that its rows lack, a template without any field, two labels that
            are written alike, or a stream whose stage is known at prediction.
        DataError: a template that fails on rows, or gives an empty text; one line for each split.
    """
    if stream.masks:
        raise ConfigError(
            "stream.template: must be null where stream.scenario is task_incremental: text that is written is not "
            "confined to a stage's labels"
        )
    owners = split_owners(stream)
    problems: list[str] = []
    plans = [_plan(owner, wordings, problems) for owner in owners]
    options = _options(stream, wordings, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    splits = [
        owner.splits if plan is None else _worded_splits(owner, plan, problems)
        for owner, plan in zip(owners, plans, strict=True)
    ]
    if problems:
        raise DataError(problems)

    def asked(new: Any, old: Stage | Column) -> Any:
        if old.objective == CORPUS:
            return new
        changes: dict[str, Any] = {
            "task": "text_to_text",
            "objective": "text_to_text",
            "options": options[identity(old)],
        }
        return replace(new, labels=(), **changes)

    rows = with_splits(stream, splits)
    num_answers = len({answer for each in options.values() for answer in each.get("answers") or ()})
    written = f"; {num_answers} labels are answers to be written" if num_answers else ""
    note = f"instructions: {wordings.shipped[0] if wordings.shipped else 'as stream.template says'}{written}"
    return replace(
        rows,
        stages=tuple(map(asked, rows.stages, stream.stages)),
        given_columns=tuple(map(asked, rows.given_columns, stream.given_columns)),
        probes=tuple(map(asked, rows.probes, stream.probes)),
        scenario="domain_incremental",
        notes=(*stream.notes, note),
    )


@dataclass(frozen=True)
class _Plan:
    """What is done to the rows of one owner.

    Attributes:
        wording: its templates.
        objective: of the rows.
        given: `labels` and `choices`.
        hidden: columns that a template of a source does not see.
        dropped: columns that the new rows do not have.
    """

    wording: Wording
    objective: Objective
    given: Mapping[str, list[str]]
    hidden: frozenset[str]
    dropped: frozenset[str] = field(default=frozenset())

    @property
    def can_be_written(self) -> bool:
        return self.objective.name in (PLAIN, "text_to_text") or self.objective.can_be_written

    @property
    def templates(self) -> list[tuple[Template, frozenset[str]]]:
        """The templates, each with the columns that it does not see."""
        of_source = [(self.wording.source, self.hidden)]
        return of_source if self.wording.target is None else [*of_source, (self.wording.target, frozenset())]


def _plan(owner: SplitOwner, wordings: Wordings, problems: list[str]) -> _Plan | None:
    """Returns what is done to the rows of an owner; None: nothing. Adds faults of its templates to `problems`."""
    wording = wordings.of(owner.item)
    if owner.item.objective == CORPUS:
        return None
    if wording is None:
        problems.append(wordings.lacking(owner.item))
        return None
    objective = make_objective(owner.item.objective, owner.item.options)
    labels = list(owner.item.labels or owner.item.options.get("answers") or ())
    plan = _Plan(
        wording,
        objective,
        {"labels": labels, "choices": [label.replace("_", " ") for label in labels]},
        frozenset({*ANSWER_COLUMNS, *objective.reference_columns}),
        frozenset({*(TEXTS if objective.name == PLAIN else objective.columns), *WRITTEN}),
    )
    if wording.target is None and not plan.can_be_written:
        problems.append(
            f"{wording.source.key}: must be {{source, target}} for objective {objective.name}: got no target"
        )
    for rows in owner.splits.values():
        columns = [*rows.column_names, *(name for name in WRITTEN if plan.can_be_written)]
        for template, hidden in plan.templates:
            problems += _field_faults(template, columns, hidden, f"{owner.item.name!r}")
    return plan


def _field_faults(template: Template, columns: Sequence[str], hidden: Collection[str], of: str) -> list[str]:
    """Returns a fault for each name that is no field of the rows, and where a template names no column."""
    fields = [*dict.fromkeys(name for name in columns if name not in hidden)]
    allowed = [*fields, "labels", "choices"]
    faults = []
    for name in sorted(template.names.difference(allowed)):
        why = "is the answer, which is not put into the question," if name in hidden else "no such field"
        faults.append(
            f"{template.key}: {name}: {why} in rows of {of}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
        )
    if not faults and not template.names.intersection(fields):
        faults.append(f"{template.key}: must name a field of the row ({', '.join(fields)}), got {template.text!r}")
    return faults


def _options(stream: Stream, wordings: Wordings, problems: list[str]) -> dict[Any, dict[str, Any]]:
    """Returns the text-to-text options of every task: its own, those of the wordings, and the answers."""
    options: dict[Any, dict[str, Any]] = {}
    open_tasks = set()
    owners: list[Stage | Column] = [*stream.stages, *stream.given_columns, *stream.probes]
    for owner in owners:
        wording, task = wordings.of(owner), identity(owner)
        if wording is None or owner.objective == CORPUS:
            continue
        found = options.setdefault(task, dict(owner.options) if owner.objective == "text_to_text" else {})
        answers = _answers(owner, wording, problems)
        if answers is None:
            open_tasks.add(task)
        else:
            known = found.setdefault("written", [])
            known += [answer for answer in answers if answer not in known]
    for task, found in options.items():
        answers = found.pop("written", None)
        found.pop("answers", None)
        if answers and task not in open_tasks:
            found["answers"] = answers
    return {task: found | dict(wordings.options) for task, found in options.items()}


def _answers(owner: Stage | Column, wording: Wording, problems: list[str]) -> list[str] | None:
    """Returns what is written for each label of an owner; None where a target may be any text."""
    has_labels = "label" in make_objective(owner.objective, owner.options).columns and bool(owner.labels)
    labels = list(owner.labels if has_labels else owner.options.get("answers") or ())
    if not labels or wording.target is None:
        return labels or None
    if not wording.target.names <= {*ANSWER_COLUMNS, "labels", "choices"}:
        return None
    given = {"labels": labels, "choices": [label.replace("_", " ") for label in labels]}
    written: dict[str, str] = {}
    for label in labels:
        answer = wording.target.render({"label": label, "target": label}, given, f"label {label!r}", hidden=())
        if answer in written:
            problems.append(
                f"{wording.target.key}: two labels must not be written alike, got {answer!r} for {written[answer]!r} "
                f"and {label!r}"
            )
        written[answer] = label
    return list(written)


def _worded_splits(owner: SplitOwner, plan: _Plan, problems: list[str]) -> dict[str, Dataset]:
    """Returns every split of an owner as texts; adds the faults of rows to `problems`."""
    return {
        name: _worded(rows, plan, f"{name} of {owner.item.name!r}", problems) for name, rows in owner.splits.items()
    }


def _worded(rows: Dataset, plan: _Plan, where: str, problems: list[str]) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    tables, faults, position = [], _RowFaults(), 0
    for table in arrow_batches(rows):
        values = table.to_pydict()
        sources, targets = [], []
        for row in _with_written(values, plan):
            place = f"row {position} of {where}"
            sources.append(faults.checked(plan.wording.source, row, plan.given, place, plan.hidden))
            target = plan.wording.target
            targets.append(row["target"] if target is None else faults.checked(target, row, plan.given, place, ()))
            position += 1
        others = table.drop_columns(sorted(plan.dropped & {*table.column_names}))
        text = pa.large_string()
        tables.append(
            others.append_column("source", pa.array(sources, text)).append_column("target", pa.array(targets, text))
        )
    problems += faults.lines()
    # `datasets` keeps its description of the old columns in the metadata.
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None)) if tables else rows


def _with_written(values: dict[str, list[Any]], plan: _Plan) -> list[dict[str, Any]]:
    """Returns rows one by one, with `source` and `target` as their objective writes them, where it does."""
    columns = dict(values)
    if plan.objective.name == PLAIN:
        texts = [values[name] for name in TEXTS if name in values]
        columns |= {"source": list(map(BETWEEN.join, zip(*texts, strict=True))), "target": values["label"]}
    elif plan.objective.can_be_written:
        columns |= dict(zip(WRITTEN, plan.objective.written(values), strict=True))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class _RowFaults:
    """Gathers the rows on which templates fail, by what is wrong."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._count: dict[tuple[str, str], int] = {}

    def checked(
        self, template: Template, row: Mapping[str, Any], given: Mapping[str, Any], where: str, hidden: Collection[str]
    ) -> str:
        """Returns the text for a row; empty where the template fails."""
        try:
            text = template.render(row, given, where, hidden)
        except DataError as error:
            self._add((template.key, "fails"), error.problems[0])
            return ""
        if not text.strip():
            self._add((template.key, "empty"), f"{template.key}: must not give an empty text, which it does on {where}")
        return text

    def _add(self, kind: tuple[str, str], fault: str) -> None:
        self._first.setdefault(kind, fault)
        self._count[kind] = self._count.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """Returns one line for each template and kind of fault."""
        return [f"{fault} ({self._count[kind]} such rows)" for kind, fault in self._first.items()]
