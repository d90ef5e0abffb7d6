"""Conversations as people keep them: `messages`, or `prompt` and `completion`; and rows as they are scored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.split_owners import split_owners, with_splits
from cl_mlm.objective import Objective

if TYPE_CHECKING:
    from datasets import Dataset

    from cl_mlm.stream import Stream

MESSAGES, APART = "messages", ("prompt", "completion")


def conversation_row(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with `prompt` and `completion` as one with `messages`.

    Each is a text, of the user and of the assistant, or a list of messages. Turns of the assistant in a prompt are
    history alone (`weight: 0`).
    """
    prompt, completion = (row[name] for name in APART)
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    answered = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
    rest = {name: value for name, value in row.items() if name not in APART}
    return {**rest, MESSAGES: [*map(_history, asked), *(_with_weight(message, 1) for message in answered)]}


def _history(message: Any) -> Any:
    is_answer = isinstance(message, dict) and message.get("role") == "assistant"
    return _with_weight(message, 0 if is_answer else 1)


def _with_weight(message: Any, weight: int) -> Any:
    return {**message, "weight": weight} if isinstance(message, dict) else message


def as_conversations(rows: Dataset, columns: tuple[str, ...]) -> Dataset:
    """Returns rows with `messages` where the objective's `columns` ask for them and the rows have the other form."""
    names = {*rows.column_names}
    if MESSAGES not in columns or MESSAGES in names or not names.issuperset(APART):
        return rows
    from datasets import Dataset

    return Dataset.from_list([conversation_row(row) for table in arrow_batches(rows) for row in table.to_pylist()])


def as_scored(stream: Stream) -> Stream:
    """Returns the stream whose validation and test rows hold one answer each, which is scored (`Objective.scored`)."""
    owners = split_owners(stream)
    objectives = [owner.make_objective() for owner in owners]
    several = [type(objective).scored is not Objective.scored for objective in objectives]
    if not any(several):
        return stream
    splits = [
        {
            split: _scored(rows, objective) if has_several and split != "train" else rows
            for split, rows in owner.splits.items()
        }
        for owner, objective, has_several in zip(owners, objectives, several, strict=True)
    ]
    scored = with_splits(stream, splits)
    before, after = (
        sum(len(rows) for each in owned for split, rows in each.items() if split != "train")
        for owned in ([owner.splits for owner in owners], splits)
    )
    if before == after:
        return scored
    note = f"conversations: {before:,} validation and test rows are scored turn by turn, {after:,} turns"
    return replace(scored, notes=(*scored.notes, note))


def _scored(rows: Dataset, objective: Objective) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    tables = []
    for table in arrow_batches(rows):
        # In the types that the rows have: a batch by itself may lack a value of some field.
        schema = table.schema.remove_metadata()
        tables.append(pa.Table.from_pydict(dict(objective.scored(table.to_pydict())), schema=schema))
    return Dataset(pa.concat_tables(tables)) if tables else rows
