"""Which runs of a folder share a table: limited ones, those of one command, and those of arms."""

import json

import pytest

from cl_mlm.results import figures
from cl_mlm.results.comparison import compare


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leaves the figure out: drawing is most of the time."""
    monkeypatch.setattr(figures, "comparison_curves", lambda *_: None)
    monkeypatch.setattr(figures, "save", lambda _, path: path)


def write_run(folder, label="naive", seed=0, limit=None, score=0.8, **more):
    summary = {
        "label": label,
        "seed": seed,
        "settings": {"strategies": {label: {}}, "limit": limit},
        "stream": {"name": "toy", "fingerprint": "a" * 64, "stages": ["one"]},
        "columns": ["one"],
        "home": [0],
        "accuracy_matrix": [[score]],
        "metrics": {"average_accuracy": score, "forgetting": None},
        "cost": {"train_seconds": 1.0, "eval_seconds": 1.0},
        **more,
    }
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def labels_of(comparison):
    return [[group.label for group in section.groups] for section in comparison.sections]


def test_limited_runs_are_left_out_beside_full_ones_with_a_line(tmp_path):
    write_run(tmp_path / "full")
    for k in range(5):
        write_run(tmp_path / f"smoke-{k}", label=f"x{k}", limit=20)
    comparison = compare(tmp_path)
    assert labels_of(comparison) == [["naive"]]
    (note,) = comparison.notes
    assert note == "left out, for smoke runs (limit) are no results: 5: smoke-0, smoke-1, smoke-2, ..."


def test_limited_runs_alone_are_compared_and_called_smoke_runs(tmp_path):
    write_run(tmp_path / "a", limit=20)
    comparison = compare(tmp_path)
    assert comparison.sections[0].title == "toy (aaaaaaaa, 1 columns, limit 20)"
    assert "smoke runs: their limit of rows and steps makes these numbers no results" in comparison.lines


def test_runs_of_two_limits_share_no_table_though_their_rows_are_equal(tmp_path):
    write_run(tmp_path / "a", limit=20)
    write_run(tmp_path / "b", limit=40, label="joint")
    assert labels_of(compare(tmp_path)) == [["naive"], ["joint"]]


def test_runs_that_are_named_are_compared_and_no_others(tmp_path):
    mine = [write_run(tmp_path / "b", label="b"), write_run(tmp_path / "a", label="a", score=0.9)]
    write_run(tmp_path / "other", label="other")
    comparison = compare(tmp_path, runs_of=[*mine, mine[0]])
    assert labels_of(comparison) == [["a", "b"]]
    assert comparison.notes == ()


def test_the_stream_with_most_runs_has_the_plain_file_names(tmp_path):
    write_run(tmp_path / "0", columns=["two"])
    for seed in (1, 2):
        write_run(tmp_path / str(seed), seed=seed)
    comparison = compare(tmp_path)
    assert [section.columns for section in comparison.sections] == [("one",), ("two",)]
    assert [path.name for path in comparison.paths if path.suffix == ".png"] == ["compare.png", "compare-2.png"]


def test_arms_of_the_same_strategies_are_rows_of_their_own_by_their_names(tmp_path):
    for arm, score in {"small": 0.5, "large": 0.7}.items():
        write_run(tmp_path / arm, label="replay", arm=arm, score=score)
    assert labels_of(compare(tmp_path)) == [["large", "small"]]


def test_a_run_without_an_arm_joins_the_arm_that_is_called_like_its_strategies(tmp_path):
    write_run(tmp_path / "old", label="replay")
    write_run(tmp_path / "new", label="replay", arm="replay", seed=1)
    (section,) = compare(tmp_path).sections
    assert [len(group.runs) for group in section.groups] == [2]
