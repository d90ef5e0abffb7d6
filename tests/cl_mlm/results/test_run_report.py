import csv
import io
import json
import math

import pytest
from rich.console import Console

from cl_mlm.results.prompt_tables import later_tables
from cl_mlm.results.run_report import hundredths, metrics_table, notes, prompting_tables, write_run_report
from cl_mlm.run_folder import RunFolder


def make_summary(num_stages=3, names=None):
    names = names or [f"stage {i}" for i in range(num_stages)]
    matrix = [[0.9 - 0.1 * (i - j) if j <= i else None for j in range(num_stages)] for i in range(num_stages)]
    return {
        "stream": {
            "name": "toy",
            "stages": names,
            "overlap": {"dropped": 2},
            "notes": ["validation carved from train"],
        },
        "columns": names,
        "home": list(range(num_stages)),
        "accuracy_matrix": matrix,
        "validation_matrix": [[None if s is None else s - 0.05 for s in row] for row in matrix],
        "baseline": [None] * num_stages,
        "metrics": {"average_accuracy": 0.8, "backward_transfer": -0.145, "forward_transfer": None},
        "reasons": {"forward_transfer": "baseline has no meaning before the labels are seen"},
        "flags": ["smoke run"],
    }


def rendered(renderable):
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def image_size(path):
    from matplotlib.image import imread

    height, width = imread(path).shape[:2]
    return width, height


def test_report_writes_matrices_and_figures_into_the_run_folder(tmp_path):
    paths = write_run_report(RunFolder(tmp_path), make_summary())
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "accuracy_matrix.csv",
        "validation_matrix.csv",
        "matrices.json",
        "figures/forgetting_curves.png",
        "figures/accuracy_matrix.png",
    ]
    assert all(path.is_file() for path in paths)


def test_csv_holds_exact_scores_and_leaves_unmeasured_cells_empty(tmp_path):
    summary = make_summary(2)
    write_run_report(RunFolder(tmp_path), summary)
    rows = read_csv(tmp_path / "accuracy_matrix.csv")
    assert rows == [["stage", "stage 0", "stage 1"], ["stage 0", "0.9", ""], ["stage 1", "0.8", "0.9"]]


def test_validation_scores_are_kept_apart_from_test_scores(tmp_path):
    write_run_report(RunFolder(tmp_path), make_summary(2))
    assert float(read_csv(tmp_path / "validation_matrix.csv")[1][1]) == pytest.approx(0.85)


def test_json_names_rows_and_columns_and_writes_null_for_unmeasured(tmp_path):
    write_run_report(RunFolder(tmp_path), make_summary(2))
    matrices = json.loads((tmp_path / "matrices.json").read_text(encoding="utf-8"))
    assert matrices["stages"] == matrices["columns"] == ["stage 0", "stage 1"]
    assert matrices["accuracy_matrix"][0] == [0.9, None]


@pytest.mark.parametrize("num_stages", [1, 21])
def test_figures_are_images_that_grow_with_the_number_of_stages(tmp_path, num_stages):
    write_run_report(RunFolder(tmp_path), make_summary(num_stages))
    for name in ("forgetting_curves", "accuracy_matrix"):
        width, height = image_size(tmp_path / "figures" / f"{name}.png")
        assert width > 400 + 40 * num_stages
        assert height > 250


@pytest.mark.parametrize("name", ["$x_1", "_private", "a^{b", "\\alpha$", "", "x" * 200])
def test_odd_stage_names_are_drawn_as_they_are(tmp_path, name):
    paths = write_run_report(RunFolder(tmp_path), make_summary(2, [name, "other"]))
    assert image_size(paths[-1])[0] < 2000


def test_a_run_that_measured_its_last_row_only_is_drawn(tmp_path):
    summary = make_summary(3)
    summary["accuracy_matrix"] = [[None] * 3, [None] * 3, [0.9, 0.8, 0.7]]
    paths = write_run_report(RunFolder(tmp_path), summary)
    assert paths[-1].stat().st_size > 1000


def test_figures_leave_pyplot_alone(tmp_path, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    write_run_report(RunFolder(tmp_path), make_summary(2))
    assert "matplotlib.pyplot" not in sys.modules


def test_metrics_are_shown_in_percent_or_points_with_their_definition():
    text = rendered(metrics_table(make_summary()))
    assert "80.0 %" in text
    assert "-14.5 points" in text
    assert "mean score over all learned columns after the last stage" in text


def test_an_undefined_metric_is_a_dash_and_its_reason_a_note():
    summary = make_summary()
    row = next(line for line in rendered(metrics_table(summary)).splitlines() if "forward transfer" in line)
    assert "–" in row
    assert "forward transfer –: baseline has no meaning before the labels are seen" in notes(summary)


def test_notes_name_flags_and_what_was_done_to_the_data():
    lines = notes(make_summary())
    assert lines[1:] == ["flag: smoke run", "overlap: dropped 2", "data: validation carved from train"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "12.3"), (-0.00001, "0.0"), (None, "–"), (math.nan, "–"), (1.0, "100.0"), (-0.5, "-50.0")],
)
def test_scores_are_shown_in_hundredths(value, shown):
    assert hundredths(value) == shown


def test_a_run_of_very_many_stages_is_drawn(tmp_path):
    """A side of a PNG holds 65,536 dots; every second row is not measured."""
    summary = make_summary(2, ["a", "b"])
    rows = [[0.5, 0.4] if i % 2 else [None, None] for i in range(3000)]
    summary["stream"]["stages"] = [f"chunk {i}" for i in range(3000)]
    summary |= {"accuracy_matrix": rows, "validation_matrix": rows, "home": [1, 2999]}
    summary["reasons"] = {"accuracy_matrix": "rows of 1500 of 3000 stages are not measured (evaluate_every)"}
    write_run_report(RunFolder(tmp_path), summary)
    assert max(image_size(tmp_path / "figures" / "accuracy_matrix.png")) < 65_536
    assert "accuracy matrix –: rows of 1500 of 3000 stages are not measured (evaluate_every)" in notes(summary)


def test_probes_are_shown_apart_from_the_metrics():
    summary = make_summary() | {"probes": {"held out": {"before": 0.612, "after": 0.402, "change": -0.21}}}
    text = rendered(metrics_table(summary))
    assert "probe held out" in text
    assert "-21.0 points" in text
    assert "probe held out: 61.2 % before any training, 40.2 % after the last stage" in notes(summary)


@pytest.mark.parametrize("num_shots", [1, 2, 9])
def test_tables_of_prompts_are_at_most_sixty_characters_wide_and_whole(num_shots):
    shots = {str(k): [[0.9876, 0.9876]] * 3 for k in range(num_shots)}
    prompted = {"stream": {"name": "a_stream_" * 9}, "split": "test", "columns": ["a", "b"], "shots": shots}
    later = {"columns": ["a", "b"], "num_labels": [3, 4], "num_rows": [9999, 9999], "model": "m" * 70, "split": "test"}
    later["shots"] = {shot: rows[0] for shot, rows in shots.items()}
    summary = make_summary(2, ["the name of a first stage", "b"]) | {"prompting": prompted}
    for tables, number in ((prompting_tables(summary), "98.8"), (later_tables(later), "98.8 %")):
        text = "".join(map(rendered, tables))
        assert max(map(len, text.splitlines())) <= 60
        assert text.count(number) == 3 * num_shots


def test_metrics_fit_sixty_characters_without_losing_a_digit():
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(metrics_table(make_summary() | {"metrics": {"average_incremental_accuracy": 1, "forgetting": -1}}))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 60
    assert "100.0 %" in text
    assert "-100.0 points" in text
    assert "…" not in text
