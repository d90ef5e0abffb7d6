"""Which rows of a stream are encoded together: those of short stages, so that an entry of the cache is no stage's own.

A stream may have more stages than a process may open files, or a folder may sensibly hold entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.tokens.encoding import CHUNK_ROWS, EncodedRows, encode_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.stream import Stream
    from cl_mlm.task import Tasks

MOST_ROWS = CHUNK_ROWS  # of several owners together


def row_groups(stream: Stream, split: str, tasks: Tasks) -> list[range]:
    """Returns the owners of a split's rows, by their indices, in groups that are encoded together.

    A group is of one task, its rows have the same columns, and if it has several owners they have at most MOST_ROWS
    rows. An owner whose objective packs is alone: blocks do not go beyond it.
    """
    owners, keys = stream.owners(split), tasks.keys_of(split)
    groups: list[range] = []
    num_rows = 0
    for i, owner in enumerate(owners):
        rows = owner.split(split)
        if groups and not tasks.by_key[keys[i]].objective.packs and num_rows + len(rows) <= MOST_ROWS:
            before = groups[-1]
            is_alike = keys[before.start] == keys[i] and owners[before.start].split(split).features == rows.features
            if is_alike:
                groups[-1] = range(before.start, i + 1)
                num_rows += len(rows)
                continue
        groups.append(range(i, i + 1))
        num_rows = len(rows)
    return groups


def encode_group(
    stream: Stream, split: str, group: range, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> EncodedRows:
    """Returns the rows of the owners `group` encoded, one owner behind the other.

    Args:
        stream: the stream.
        split: name of the split.
        group: one of `row_groups`.
        tasks: of the stream.
        tokenizer: the model's.
        max_length: tokens of a row at most.
    """
    task, owners = tasks.by_key[tasks.keys_of(split)[group.start]], stream.owners(split)
    name = f"{group.start}" if len(group) == 1 else f"{group.start}-{group.stop - 1}"
    return encode_rows(
        [owners[i].split(split) for i in group],
        task.objective,
        tokenizer,
        task.labels.index,
        max_length,
        f"{stream.fingerprint}/{name}/{split}",
    )
