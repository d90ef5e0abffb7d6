"""How long it takes to encode 100,000 short rows, and to find them encoded."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.speed.intervals import Effort
from benchmarks.speed.measuring import Measured
from benchmarks.speed.workload import MAX_LENGTH, Workload, short_stream

NUM_ROWS = 100_000
WORDS = 16  # of a row: about 20 tokens with those that the tokenizer adds
REPEATS = 3


def encode(work: Workload, effort: Effort) -> Measured:
    """Measures wall-clock seconds from raw rows to encoded ones on disk, and with the entry in place."""
    from cl_mlm.objectives.classification import Classification
    from cl_mlm.tokens.encoding import EncodedRows, encode_rows

    rows = made_rows(NUM_ROWS if work.rows is None else work.rows)
    found: EncodedRows | None = None
    seconds: dict[str, list[float]] = {"first": [], "first_cpu": [], "again": []}
    previous = os.environ.get("CL_MLM_CACHE")
    try:
        for _ in range(1 if effort.max_quads == 1 else REPEATS):
            os.environ["CL_MLM_CACHE"] = str(work.new_folder("encoding"))  # where nothing is encoded yet
            for name in ("first", "again"):
                started, cpu = time.perf_counter(), time.process_time()
                found = encode_rows(rows, Classification(), work.tokenizer, {"a": 0}, MAX_LENGTH, "encode.rows")
                seconds[name].append(time.perf_counter() - started)
                if name == "first":
                    seconds["first_cpu"].append(time.process_time() - cpu)
    finally:
        if previous is None:
            del os.environ["CL_MLM_CACHE"]
        else:
            os.environ["CL_MLM_CACHE"] = previous
    assert found is not None
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    note = f"{len(rows)} rows of {found.lengths.mean():.1f} tokens, {middle['first_cpu']:.1f} s of processor time; "
    note += f"found encoded in {middle['again']:.2f} s"
    return Measured(
        middle["first"], min(seconds["first"]), max(seconds["first"]), note=note, details={"seconds": seconds}
    )


def made_rows(number: int) -> Any:
    """Returns rows of words drawn as often as they stand in the short setting's texts, all of one label."""
    from datasets import Dataset

    texts = (text for stage in short_stream().stages for text in stage.train["text"])
    words = np.array([word for text in texts for word in text.split()])
    drawn = words[np.random.default_rng(0).integers(0, len(words), (number, WORDS))]
    return Dataset.from_dict({"text": [" ".join(row) for row in drawn.tolist()], "label": ["a"] * number})
