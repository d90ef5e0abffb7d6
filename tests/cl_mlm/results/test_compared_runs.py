"""Runs compared from Python: what is taken, what is shown, and that nothing is written."""

import json

import pytest

import cl_mlm
from cl_mlm.errors import ConfigError, RunFolderError


@pytest.fixture
def runs(result, tmp_path):
    """Two settings, one of them with two seeds."""
    for name, seed, strategy in (("replay-0", 0, "replay"), ("replay-1", 1, "replay"), ("naive-0", 0, "<naive>")):
        summary = json.loads(json.dumps(result.summary)) | {"label": strategy, "seed": seed}
        summary["metrics"]["average_accuracy"] = 0.5 + 0.1 * seed if strategy == "replay" else 0.2
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "runs"


def test_a_folder_results_and_lists_are_taken(runs, result):
    whole = cl_mlm.compare(runs).frame()
    assert whole["group"].tolist() == ["replay", "<naive>"]
    assert whole["seeds"].tolist() == [2, 1]
    assert whole["average_accuracy"].tolist() == pytest.approx([0.55, 0.2])
    assert cl_mlm.compare(runs / "replay-0", str(runs / "naive-0")).frame()["seeds"].tolist() == [1, 1]
    loaded = [cl_mlm.Result(path, {}) for path in sorted(runs.iterdir())]
    assert cl_mlm.compare(loaded).frame().equals(whole)
    assert cl_mlm.compare(*loaded, runs).frame().equals(whole)


def test_it_shows_itself_and_writes_nothing(runs):
    before = sorted(runs.rglob("*"))
    compared = cl_mlm.compare(runs)
    assert "replay 55.0 %, <naive> 20.0 %" in repr(compared)
    html = compared._repr_html_()
    assert "&lt;naive&gt;" in html
    assert "<naive>" not in html
    assert "average accuracy" in html
    assert "| replay" in compared.markdown()
    assert compared.plot()._repr_png_().startswith(b"\x89PNG")
    assert sorted(runs.rglob("*")) == before


def test_what_is_no_run_is_told(runs, tmp_path):
    with pytest.raises(ConfigError, match="must be given finished runs, or folders that hold some; got nothing"):
        cl_mlm.compare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"got .*empty"):
        cl_mlm.compare(tmp_path / "empty")
    with pytest.raises(ConfigError, match="compare: must be given results or folders, got int"):
        cl_mlm.compare(5)
    with pytest.raises(RunFolderError, match="no such folder"):
        cl_mlm.compare(tmp_path / "none")
    with pytest.raises(ConfigError, match="table: must be 0 to 0, got 1"):
        cl_mlm.compare(runs).plot(table=1)
