"""A whole run whose answers are confined to a list: both figures stand side by side, wherever a run is told."""

import json

import pyarrow.parquet as pq
import pytest

import cl_mlm
from cl_mlm.results.run_report import reading_tables

pytestmark = pytest.mark.usefixtures("fresh_process")


def test_both_figures_are_told_and_the_constrained_one_has_no_format_failures(fast, tmp_path):
    fast |= {"model": {"name": "tiny-decoder", "dropout": 0.0}, "output": str(tmp_path / "runs")}
    fast["checkpoint"] = {"keep_stages": "all", "reuse_stages": 1}
    fast["stream"] |= {"as_text": True, "text_options": {"decode": "constrained"}}
    fast["training"] |= {"steps": 2}
    found = cl_mlm.run(fast, progress=False)
    readings, matrix = found.summary["readings"], found.summary["accuracy_matrix"]
    assert [*readings] == ["free/labels-01", "free/labels-02"]
    assert all(len(values) == 3 for values in readings.values())
    labels = {"cold", "hot", "loud", "quiet"}
    table = pq.read_table(found.folder / "predictions" / "1.parquet").to_pydict()
    assert {*table["prediction"]} <= labels
    own = [i for i, name in enumerate(table["column"]) if name == "labels-01"]
    share = sum(table["free"][i] == table["reference"][i] for i in own) / len(own)
    assert readings["free/labels-01"][2] == pytest.approx(share)
    chosen = sum(table["prediction"][i] == table["reference"][i] for i in own) / len(own)
    assert matrix[1][0] == pytest.approx(chosen)
    lines = [json.loads(line) for line in (found.folder / "journal.jsonl").read_text().splitlines()]
    values = {key: value for line in lines if line["kind"] == "metrics" for key, value in line["values"].items()}
    assert values["test/format_failures"] == 0
    assert values["test/free_format_failures"] == pytest.approx(
        sum(table["free"][i] not in labels for i, name in enumerate(table["column"]) if name == "labels-02") / 12
    )
    assert {"baseline_free/labels-01", "free/labels-02"} <= {*values}
    head = (found.folder / "readings.csv").read_text().splitlines()
    assert (head[0], len(head)) == ("stage,free/labels-01,free/labels-02", 4)
    assert reading_tables(found.summary)[0].row_count == 3
    # The scores of a shared stage, and a model of a finished run, say the same.
    other = cl_mlm.run({**fast, "strategies": {"ewc": {"weight": 1.0}}}, progress=False)
    assert other.summary["reused"]
    assert [values[1] for values in other.summary["readings"].values()] == [v[1] for v in readings.values()]
