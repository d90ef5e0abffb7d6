"""What is no summary of a run counts as damaged, for every reader."""

import json

import pytest

from cl_mlm.errors import RunFolderError
from cl_mlm.results.runs import load_run
from cl_mlm.results.summary_file import read_summary_file, summary_faults
from cl_mlm.storage.run_lookup import read_summary

SUMMARY = {
    "label": "naive",
    "seed": 0,
    "settings": {"limit": None},
    "stream": {"name": "toy", "fingerprint": "a", "stages": ["one", "two"]},
    "columns": ["one", "two"],
    "home": [0, 1],
    "accuracy_matrix": [[0.5, None], [0.25, 1]],
    "metrics": {"average_accuracy": 0.5, "forgetting": None},
    "cost": {"train_seconds": 1.0, "eval_seconds": 1.0},
}
WRONG = {
    "accuracy_matrix": (None, [], "a", [0.5], [[0.5, None]], [[0.5], [0.5]], [["0.5", None], [0.25, 1]], [[2, 0]] * 2),
    "home": (None, [0], ["0", "1"], [True, 1]),
    "columns": ("ab", ["one"], [1, 2]),
    "metrics": ([], {}, {"average_accuracy": "high", "forgetting": None}, {"average_accuracy": 1e999, "forgetting": 0}),
    "cost": (None, {}, {"train_seconds": [1], "eval_seconds": 10**400}),
    "stream": ([], {}, {"name": 1, "fingerprint": "a"}, {"name": "a", "fingerprint": "a", "stages": 3}),
    "settings": ([], "a", None),
    "seed": ("0", None, True),
    "label": (None, ["a"]),
    "flags": ("a flag", {}),
    "reasons": (["a"], "a"),
    "baseline": ([0.5], {}),
    "validation_matrix": ([[0.5, 0.5]], [[0.5, 0.5], [0.5, False]]),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_type_or_shape_is_named_by_its_key(key, value):
    assert summary_faults(SUMMARY) == []
    assert any(key in fault for fault in summary_faults({**SUMMARY, key: value}))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", '"text"', "null", "{}", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")),
        *(json.dumps({**SUMMARY, "accuracy_matrix": [[float(token), 0], [0, 0]]}) for token in ("nan", "inf")),
        json.dumps({key: value for key, value in SUMMARY.items() if key != "home"}),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_every_reader_refuses_what_is_no_summary_and_names_the_file(text, tmp_path):
    path = tmp_path / "summary.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read, place in ((load_run, tmp_path), (read_summary, tmp_path), (read_summary_file, path)):
        with pytest.raises(RunFolderError, match=r"summary\.json: (is damaged|cannot be read as a summary)"):
            read(place)


def test_a_missing_summary_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"summary\.json: cannot be read"):
        read_summary(tmp_path)
