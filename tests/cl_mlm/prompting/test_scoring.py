"""Columns that may be given the same answers are read in one pass, and a prompt that several have is read once."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from cl_mlm.config.components import make_objective
from cl_mlm.prompting import scoring
from cl_mlm.prompting.likelihood import Likelihoods
from cl_mlm.prompting.scoring import score_columns


class Prompting:
    """Prompts that are the texts of the rows."""

    config = SimpleNamespace(split="test", delimiter=" ", normalise="none", separator="")

    def __init__(self, columns, labels):
        self.columns, self._labels = columns, labels
        self.words = {label: (label,) for label in "abc"}

    def labels(self, column, after):
        return self._labels[column.name]

    def positions(self, column):
        return [*range(len(column.rows))]

    def prompts(self, column, shots, labels, positions):
        return column.rows["source"]


def column(name, objective, options, sources, targets):
    rows = Dataset.from_dict({"source": sources, "text": sources, "target": targets, "label": targets})
    return SimpleNamespace(
        name=name,
        rows=rows,
        table=lambda split: rows,
        objective=make_objective(objective, options),
        column=SimpleNamespace(labels=[*"abc"]),
    )


@pytest.fixture
def passes(monkeypatch):
    """The prompts of every pass; the likeliest label of a prompt is its first letter, and long prompts are cut."""
    passes = []

    def likelihoods(reader, prompts, answers):
        passes.append(prompts)
        total = np.array([[float(answer.strip() == prompt[0]) for answer in answers] for prompt in prompts])
        return Likelihoods(total, np.ones_like(total, int), np.array([len(prompt) > 3 for prompt in prompts]))

    def write(reader, prompting, most, prompts):
        passes.append(prompts)
        return [(f"{prompt} {most}", False) for prompt in prompts]

    monkeypatch.setattr(scoring, "likelihoods", likelihoods)
    monkeypatch.setattr(scoring, "_write", write)
    return passes


def test_columns_of_the_same_labels_share_a_pass(passes):
    columns = [
        column("first", "classification", {}, ["a 1", "b 2 long", "c 3"], ["a", "b", "c"]),
        column("second", "classification", {}, ["b 2 long", "c 3", "a 4"], ["b", "b", "b"]),
        column("third", "classification", {}, ["a 1", "c 3"], ["a", "a"]),
    ]
    labels = {"first": ["a", "b", "c"], "second": ["a", "b", "c"], "third": ["a", "b"]}
    found = score_columns(SimpleNamespace(kind="causal", chat=None), Prompting(columns, labels), 0, -1)
    assert passes == [["a 1", "b 2 long", "c 3", "a 4"], ["a 1", "c 3"]]
    assert [each.metrics["score"] for each in found] == pytest.approx([1, 1 / 3, 1])
    assert [(each.num_rows, each.num_labels, each.num_cut) for each in found] == [(3, 3, 1), (3, 3, 1), (2, 2, 0)]


def test_texts_of_one_length_share_a_pass(passes):
    columns = [
        column("first", "text_to_text", {"max_new_tokens": 5}, ["x", "y"], ["x 5", "z"]),
        column("second", "text_to_text", {"max_new_tokens": 5}, ["y", "y"], ["y 5", "y 5"]),
        column("third", "text_to_text", {"max_new_tokens": 7}, ["x"], ["x 7"]),
    ]
    found = score_columns(
        SimpleNamespace(kind="causal", chat=None), Prompting(columns, {each.name: [] for each in columns}), 0, -1
    )
    assert passes == [["x", "y"], ["x"]]
    assert [each.metrics["score"] for each in found] == [0.5, 1, 1]
