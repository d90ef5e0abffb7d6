"""Data of every objective, in one vocabulary: the words a-z, those of labels, and numbers from 0 to 99."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {"train": (0, 8), "validation": (8, 10), "test": (10, 14)}


def row(objective: str, i: int, num_words: int) -> dict[str, Any]:
    """Returns row i, of `num_words` words; its first word tells it from all others."""
    words = [str(i), *(LETTERS[(i + k) % 26] for k in range(num_words - 1))]
    text, label = " ".join(words), ("red", "blue")[i % 2]
    return {
        "classification": {"text": text, "label": label},
        "pairs": {"text": text, "text_pair": "x y z", "label": label},
        "multilabel": {"text": text, "labels": [label]},
        "regression": {"text": text, "value": i / 14},
        "relation": {"tokens": words, "head": [0, 1], "tail": [2, 3], "label": label},
        "tagging": {"tokens": words, "tags": [f"B-{label}", *["O"] * (num_words - 1)]},
        "question_answering": {
            "context": text,
            "question": "x y",
            "answers": {"text": [words[2]], "answer_start": [len(words[0]) + 3]},
        },
        "language_modelling": {"text": text, "label": label},
        "text_to_text": {"source": text, "target": label},
    }[objective]


@pytest.fixture(scope="session")
def stream_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The stream section of one objective in one stage: `stream_of("tagging", num_words, options)`."""
    root = tmp_path_factory.mktemp("objectives")

    def make(kind: str, num_words: int = 6, /, **options: Any) -> dict[str, Any]:
        folder: Path = root / f"{kind}-{num_words}"
        folder.mkdir(exist_ok=True)
        for split, places in SIZES.items():
            lines = [json.dumps(row(kind, i, num_words)) + "\n" for i in range(*places)]
            (folder / f"{split}.jsonl").write_text("".join(lines))
        objective = "classification" if kind == "pairs" else kind
        section = {"name": "files", "path": str(folder), "stages_by": "whole", "objective": objective}
        return section | {"options": options}

    return make
