"""How a result shows itself, and how a finished run is loaded again."""

import json
import math
import re
import shutil
import sys
from dataclasses import replace

import pytest

import cl_mlm
from cl_mlm.errors import RunFolderError


def test_a_result_is_one_short_line(result):
    text = repr(result)
    assert re.fullmatch(
        r"Result\(.*/replay-seed0-\w+: 2 stages, average accuracy [\d.]+ %, forgetting -?[\d.]+ points\)", text
    )
    assert len(text) < len(str(result.folder)) + 90


def test_an_undefined_figure_is_left_out_of_the_line(result):
    summary = {**result.summary, "metrics": {**result.summary["metrics"], "forgetting": None}}
    assert "forgetting" not in repr(cl_mlm.Result(result.folder, summary))


def test_a_notebook_shows_matrix_metrics_and_flags_and_fetches_nothing(result):
    stream = {**result.summary["stream"], "stages": ["<b>x</b>", "stage & 1"]}
    summary = {**result.summary, "stream": stream, "flags": ["at <chance>"]}
    html = replace(result, summary=summary)._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "stage &amp; 1" in html
    assert "flag: at &lt;chance&gt;" in html
    assert "average accuracy" in html
    assert "<b>" not in html
    assert not re.search(r"http|src=|<script|<link|url\(", html)


def test_a_table_of_many_stages_is_cut_and_says_so(result):
    names = [f"s{i}" for i in range(50)]
    summary = {**result.summary, "columns": names, "home": [*range(50)]}
    summary |= {"stream": {**result.summary["stream"], "stages": names}, "accuracy_matrix": [[0.5] * 50] * 50}
    html = replace(result, summary=summary)._repr_html_()
    assert "30 more stages: frame() has them all" in html
    assert "30 more columns: frame() has them all" in html
    assert ">s49<" in html
    assert ">s25<" not in html


def test_a_frame_has_a_row_for_each_stage_and_column(result):
    frame = result.frame()
    assert list(frame.columns) == ["stage_index", "stage", "column", "home", "accuracy", "validation"]
    assert frame["stage"].tolist() == ["stage 0", "stage 0", "stage 1", "stage 1"]
    assert frame["column"].tolist() == ["stage 0", "stage 1"] * 2
    assert frame["home"].tolist() == [0, 1, 0, 1]
    assert frame["accuracy"][0] == result.matrix[0, 0]
    assert math.isnan(frame["accuracy"][1])
    assert frame["validation"][3] == result.summary["validation_matrix"][1][1]


def test_a_probe_has_no_home_in_a_frame(result):
    frame = replace(result, summary={**result.summary, "home": [0, None]}).frame()
    assert frame["home"].isna().tolist() == [False, True] * 2


def test_a_plot_is_a_figure_and_leaves_pyplot_alone(result):
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else None
    figure = result.plot()
    assert len(figure.axes[0].lines) == 3  # two columns and their average
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert sys.modules.get("matplotlib.pyplot") is pyplot
    assert (pyplot.get_fignums() if pyplot else None) == before


def test_a_finished_run_is_loaded(result):
    loaded = cl_mlm.load(str(result.folder))
    assert loaded.summary == json.loads(json.dumps(result.summary))
    assert not loaded.is_new
    assert loaded.predict(["snow snow"]) == result.predict(["snow snow"])


@pytest.fixture
def copied(result, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(result.folder, folder)
    return folder


def refused(folder):
    with pytest.raises(RunFolderError) as caught:
        cl_mlm.load(folder)
    return str(caught.value)


def test_a_run_without_its_journal_is_loaded(copied):
    (copied / "journal.jsonl").unlink()
    loaded = cl_mlm.load(copied)
    assert loaded.matrix.shape == (2, 2)
    assert "is not whole: journal.jsonl: is missing; `cl-mlm resume " in loaded.warnings[0]


def test_a_summary_that_is_not_the_one_of_the_run_is_refused(copied):
    path = copied / "summary.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    assert "is not whole: summary.json: is damaged (its checksum differs)" in refused(copied)


def test_what_is_no_finished_run_is_told(copied, result, tmp_path):
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder"
    assert "holds no run (no config.yaml); runs lie below (1), such as" in refused(tmp_path)
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").endswith("holds no run (no config.yaml)")
    assert refused(result.folder / "config.yaml").endswith("no such folder")
    journal = (copied / "journal.jsonl").read_text().splitlines(keepends=True)
    finished = max(i for i, line in enumerate(journal) if '"FINISHED"' in line)
    (copied / "journal.jsonl").write_text("".join(journal[:finished]))
    (copied / "files.json").unlink()  # it comes after the journal's last line
    assert f"is not finished; `cl-mlm resume {copied}` goes on with it" in refused(copied)
    (copied / "summary.json").write_text('{"label": 1}')
    assert "summary.json: is damaged: must have the keys" in refused(copied)
    (copied / "summary.json").write_text("{")
    assert "summary.json: cannot be read" in refused(copied)
    (copied / "summary.json").unlink()
    assert "is not finished" in refused(copied)
