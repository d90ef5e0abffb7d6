import csv
import io
import json
import math

import pytest
from rich.console import Console

from cl_mlm.errors import ClMlmError, RunFolderError
from cl_mlm.metrics import as_matrix, mean_interval, summarise
from cl_mlm.results import figures
from cl_mlm.results.comparison import compare, make_table
from cl_mlm.results.figures import Curves, comparison_curves
from cl_mlm.results.runs import load_runs, unfinished_runs

JOINT = [[None, None], [0.9, 0.8]]


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leaves the figure out where a test does not ask for it: drawing is most of the time."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "comparison_curves", lambda *_: None)
        monkeypatch.setattr(figures, "save", lambda _, path: path)


@pytest.fixture
def drawn():
    """Asks for real figures."""


def write_run(
    folder, label="naive", seed=0, matrix=((0.9, None), (0.5, 0.8)), fingerprint="a" * 64, columns=None, **settings
):
    values, reasons = summarise([list(row) for row in matrix], None)
    columns = columns or [f"column {j}" for j in range(len(matrix[0]))]
    summary = {
        "label": label,
        "seed": seed,
        "settings": settings or {"strategies": {label: {}}, "training": {"epochs": 3}},
        "stream": {"name": "toy", "fingerprint": fingerprint, "stages": columns},
        "columns": columns,
        "home": list(range(len(columns))),
        "accuracy_matrix": [list(row) for row in matrix],
        "metrics": {name: None if math.isnan(value) else value for name, value in values.items()},
        "reasons": reasons,
        "cost": {
            "train_seconds": 10.0 + seed,
            "eval_seconds": 2.0,
            "peak_memory_bytes": 3 * 2**20,
            "buffer_bytes": 512,
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rendered(tables, width=140):
    console = Console(width=width, file=io.StringIO(), record=True)
    for table in tables:
        console.print(table)
    return console.export_text()


def test_runs_that_differ_only_by_seed_are_one_row(tmp_path):
    finals = (0.4, 0.5, 0.7)
    for seed, final in enumerate(finals):
        write_run(tmp_path / f"naive-{seed}", seed=seed, matrix=((0.9, None), (final, 0.8)))
    (row,) = read_rows(compare(tmp_path).paths[0])
    mean, half = mean_interval([(final + 0.8) / 2 for final in finals])
    assert row["seeds"] == "3"
    assert float(row["average_accuracy"]) == pytest.approx(mean)
    assert float(row["average_accuracy_ci95"]) == pytest.approx(half)


def test_row_holds_mean_costs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"naive-{seed}", seed=seed)
    comparison = compare(tmp_path)
    (row,) = read_rows(comparison.paths[0])
    assert float(row["train_seconds"]) == 10.5
    assert comparison.markdown().splitlines()[4].endswith("| 10.5 | 2.0 | 3.0 | 0.5 |")


def test_a_cost_that_was_not_measured_is_a_dash(tmp_path):
    folder = write_run(tmp_path / "naive")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["cost"]["peak_memory_bytes"] = None
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "| – | 0.5 |" in compare(tmp_path).markdown()


def test_one_seed_shows_no_interval(tmp_path):
    write_run(tmp_path / "naive")
    comparison = compare(tmp_path)
    assert read_rows(comparison.paths[0])[0]["forgetting_ci95"] == ""
    assert "±" not in comparison.markdown()


def test_several_seeds_show_an_interval(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"naive-{seed}", seed=seed)
    assert "65.0 ±0.0" in rendered(compare(tmp_path).tables)


def test_an_undefined_metric_is_a_dash_with_its_reason(tmp_path):
    write_run(tmp_path / "naive")
    write_run(tmp_path / "joint", label="joint", matrix=JOINT)
    comparison = compare(tmp_path)
    assert [row["forgetting"] for row in read_rows(comparison.paths[0])] == ["", "0.4"]
    assert "AIA, BWT, FGT, LA – of joint: rows of earlier stages are not measured (joint)" in comparison.lines
    assert "FWT –: baseline has no meaning before the labels are seen" in comparison.lines


def test_definitions_stand_beside_the_numbers(tmp_path):
    write_run(tmp_path / "naive")
    comparison = compare(tmp_path)
    line = "ACC: average accuracy: mean score over all learned columns after the last stage"
    assert line in comparison.lines
    assert f"- {line}" in comparison.markdown()


def test_one_label_for_two_settings_gets_the_settings_that_differ(tmp_path):
    for capacity in (200, 500):
        strategies = {"replay": {"capacity": capacity, "batch": 8}}
        write_run(tmp_path / f"replay-{capacity}", label="replay", strategies=strategies, training={"epochs": 3})
    labels = [row["group"] for row in read_rows(compare(tmp_path).paths[0])]
    assert labels == ["replay (capacity=200)", "replay (capacity=500)"]


def test_settings_that_end_alike_are_shown_with_their_whole_key(tmp_path):
    for k, (weight, other) in enumerate([(1, 1), (2, 1), (1, 2)]):
        write_run(tmp_path / str(k), label="ewc+lwf", strategies={"ewc": {"weight": weight}, "lwf": {"weight": other}})
    labels = [row["group"] for row in read_rows(compare(tmp_path).paths[0])]
    assert labels == sorted(labels)  # equal scores stand by name
    assert labels[2] == "ewc+lwf (strategies.ewc.weight=2, strategies.lwf.weight=1)"


def test_a_label_of_its_own_stays_as_it_is(tmp_path):
    for label in ("naive", "ewc+replay"):
        write_run(tmp_path / label, label=label)
    assert [row["group"] for row in read_rows(compare(tmp_path).paths[0])] == ["ewc+replay", "naive"]


def test_strategies_in_another_order_are_another_group(tmp_path):
    write_run(tmp_path / "1", label="ewc+lwf", strategies={"ewc": {}, "lwf": {}})
    write_run(tmp_path / "2", label="lwf+ewc", strategies={"lwf": {}, "ewc": {}})
    assert len(compare(tmp_path).sections[0].groups) == 2


def test_a_second_run_of_one_seed_is_no_second_seed(tmp_path):
    write_run(tmp_path / "naive-1")
    write_run(tmp_path / "naive-2")
    comparison = compare(tmp_path)
    assert read_rows(comparison.paths[0])[0]["seeds"] == "1"
    assert comparison.notes == (f"same settings and seed as a later run, left out: {tmp_path / 'naive-1'}",)


@pytest.mark.parametrize("other", [{"fingerprint": "b" * 64}, {"columns": ["column 0", "probe"]}])
def test_runs_on_other_rows_or_columns_get_a_table_of_their_own(tmp_path, other):
    write_run(tmp_path / "1")
    write_run(tmp_path / "2", **other)
    comparison = compare(tmp_path)
    assert [path.name for path in comparison.paths if path.suffix == ".csv"] == [
        "compare.csv",
        "curves.csv",
        "compare-2.csv",
        "curves-2.csv",
    ]
    assert len(comparison.tables) == 4
    assert comparison.notes[0].startswith("2 tables: ")


def test_a_table_of_two_streams_is_refused(tmp_path):
    write_run(tmp_path / "1")
    write_run(tmp_path / "2", fingerprint="b" * 64)
    with pytest.raises(ClMlmError, match="not comparable"):
        make_table(load_runs(tmp_path))


def test_curves_hold_every_measured_score_and_no_other(tmp_path):
    write_run(tmp_path / "naive", seed=7)
    rows = read_rows(compare(tmp_path).paths[1])
    assert [tuple(row.values()) for row in rows] == [
        ("naive", "7", "0", "column 0", "0.9"),
        ("naive", "7", "1", "column 0", "0.5"),
        ("naive", "7", "1", "column 1", "0.8"),
    ]


def test_files_go_to_the_output_folder(tmp_path, drawn):
    write_run(tmp_path / "runs" / "naive")
    comparison = compare(tmp_path / "runs", tmp_path / "made" / "here")
    assert [path.relative_to(tmp_path / "made" / "here").as_posix() for path in comparison.paths] == [
        "compare.csv",
        "curves.csv",
        "compare.png",
    ]
    assert all(path.is_file() for path in comparison.paths)


def test_figure_is_an_image(tmp_path, drawn):
    from matplotlib.image import imread

    write_run(tmp_path / "naive")
    write_run(tmp_path / "joint", label="joint", matrix=JOINT)
    image = imread(compare(tmp_path).paths[2])
    assert image.shape[0] > 300
    assert image.std() > 0.01


def test_figure_has_a_panel_for_the_average_and_one_per_column():
    curves = Curves("naive", as_matrix([[0.9, None], [0.5, 0.8]])[None], (0, 1))
    figure = comparison_curves([curves], ["first", "second"])
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["average over learned", "first", "second"]


def test_figure_shows_at_most_sixteen_panels_and_says_so():
    matrix = as_matrix([[0.5] * 40] * 40)
    figure = comparison_curves([Curves("naive", matrix[None], tuple(range(40)))], [str(j) for j in range(40)])
    assert sum(axes.get_visible() for axes in figure.axes) == 16
    assert "15 of 40 columns" in figure.legends[0].get_title().get_text()


def test_joint_is_a_horizontal_dashed_line_at_its_last_row():
    curves = Curves("joint", as_matrix(JOINT)[None], (0, 1))
    (line,) = comparison_curves([curves], ["first", "second"]).axes[1].get_lines()
    assert line.get_linestyle() == "--"
    assert list(line.get_ydata()) == [90.0, 90.0]


def test_lines_of_several_seeds_are_means_with_a_band():
    matrices = as_matrix([[0.2], [0.4]])[:, None, :]
    figure = comparison_curves([Curves("naive", matrices, (0,))], ["first"])
    assert figure.axes[1].get_lines()[0].get_ydata()[0] == pytest.approx(30)
    assert len(figure.axes[1].collections) == 1


@pytest.mark.parametrize("place", [".", "a", "a/b", "a/b/c"])
def test_runs_are_found_at_most_three_folders_below(tmp_path, place):
    write_run(tmp_path / "runs" / place)
    assert [run.folder for run in load_runs(tmp_path / "runs")] == [tmp_path / "runs" / place]


def test_deeper_runs_are_not_searched_for(tmp_path):
    write_run(tmp_path / "a/b/c/d")
    assert load_runs(tmp_path) == []


def test_unfinished_runs_are_named(tmp_path):
    write_run(tmp_path / "done")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    assert unfinished_runs(tmp_path) == [tmp_path / "open"]
    assert compare(tmp_path).notes == (f"unfinished, left out: {tmp_path / 'open'}",)


def test_no_finished_run_is_an_error_that_names_the_unfinished(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    with pytest.raises(ClMlmError, match=r"no finished run(.|\n)*unfinished, left out: .*open"):
        compare(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder"):
        compare(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"label": ', "cannot be read"),
        ("[]", "is damaged: must be an object"),
        ('{"label": "naive"}', r"is damaged: must have the keys \['seed'"),
    ],
)
def test_a_broken_summary_is_an_error_that_names_the_file(tmp_path, text, fault):
    folder = write_run(tmp_path / "naive")
    (folder / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=rf"naive.summary\.json: {fault}"):
        compare(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("accuracy_matrix", [[0.5]]), ("accuracy_matrix", [["high", 1]]), ("home", [0]), ("stream", {}), ("metrics", [])],
)
def test_a_summary_that_contradicts_itself_is_an_error(tmp_path, key, value):
    folder = write_run(tmp_path / "naive")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8")) | {key: value}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"summary\.json: is damaged"):
        compare(tmp_path)


def test_every_broken_summary_is_named_at_once(tmp_path):
    for name in ("one", "two"):
        (write_run(tmp_path / name) / "summary.json").write_text("", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"one(.|\n)*two"):
        load_runs(tmp_path)


def test_labels_are_not_read_as_markup(tmp_path):
    write_run(tmp_path / "1", label="replay [bold] | x")
    comparison = compare(tmp_path)
    assert "replay [bold] | x" in rendered(comparison.tables)
    assert "| replay [bold] \\| x |" in comparison.markdown()


@pytest.mark.parametrize("width", [60, 80])
def test_tables_lose_no_digit_in_a_narrow_terminal(tmp_path, width):
    for seed, final in enumerate((0.4, 0.5, 0.7)):
        write_run(tmp_path / f"{seed}", label="ewc+replay", seed=seed, matrix=((0.9, None), (final, 0.8)))
    text = "".join(rendered(compare(tmp_path).tables, width).split())
    assert "…" not in text
    assert all(number in text for number in ("66.7", "±19.0", "-36.7", "±37.9"))


def test_no_table_is_wider_than_sixty_characters_or_loses_a_column(tmp_path):
    for seed, final in enumerate((0.4, 0.5, 0.7)):
        for label in ("ewc+replay", "a very long name of an arm that takes several lines"):
            write_run(tmp_path / f"{label}{seed}", label=label, seed=seed, matrix=((0.9, None), (final, 0.8)))
    text = rendered(compare(tmp_path).tables, 200)
    assert max(map(len, text.splitlines())) <= 60
    heads = ("ACC %", "AIA %", "BWT pt", "FWT pt", "FGT pt", "LA %", "train s", "eval s", "peak MiB", "buffer KiB")
    assert all(head in text for head in heads)


def test_rows_are_sorted_by_average_accuracy_and_the_undefined_come_last(tmp_path):
    finals = {"a": 0.2, "b": 0.7, "c": 0.5}
    for label, final in finals.items():
        write_run(tmp_path / label, label=label, matrix=((0.9, None), (final, 0.8)))
    write_run(tmp_path / "d", label="d", matrix=((0.9, None), (0.5, None)))
    (section,) = compare(tmp_path).sections
    assert [group.label for group in section.groups] == ["b", "c", "a", "d"]


def test_every_row_within_the_interval_of_the_best_is_marked(tmp_path):
    finals = {"best": (0.6, 0.7, 0.8), "near": (0.6, 0.65, 0.7), "far": (0.1, 0.1, 0.1)}
    for label, values in finals.items():
        for seed, final in enumerate(values):
            write_run(tmp_path / f"{label}-{seed}", label=label, seed=seed, matrix=((0.9, None), (final, 0.8)))
    comparison = compare(tmp_path)
    assert [row["best"] for row in read_rows(comparison.paths[0])] == ["*", "*", ""]
    assert "| near * | 3 |" in comparison.markdown()
    assert "*: the highest ACC, and every ACC within its 95 % interval" in comparison.lines


def test_of_one_seed_the_best_alone_is_marked(tmp_path):
    for label, final in {"best": 0.7, "near": 0.69}.items():
        write_run(tmp_path / label, label=label, matrix=((0.9, None), (final, 0.8)))
    comparison = compare(tmp_path)
    assert [row["best"] for row in read_rows(comparison.paths[0])] == ["*", ""]
    assert "*: the highest ACC, of one seed, which has no interval" in comparison.lines


def test_a_row_that_stands_alone_is_not_called_the_best(tmp_path):
    write_run(tmp_path / "naive")
    assert [row["best"] for row in read_rows(compare(tmp_path).paths[0])] == [""]


def test_a_run_whose_data_have_changed_is_left_out_beside_the_one_that_took_its_place(tmp_path):
    names = ["naive-seed0-0123abcd", "naive-seed0-0123abcd-2", "naive-seed0-0123abcd-10"]
    for name, row in zip(names, "abc", strict=True):
        write_run(tmp_path / name, fingerprint=row * 64)
    write_run(tmp_path / "naive-seed1-4567abcd", seed=1, fingerprint="c" * 64)
    comparison = compare(tmp_path)
    ((group,),) = [section.groups for section in comparison.sections]
    assert [run.folder.name for run in group.runs] == [names[2], "naive-seed1-4567abcd"]
    assert comparison.notes == tuple(
        f"same settings and seed as a later run, left out: {tmp_path / name}" for name in names[:2]
    )


def test_runs_made_with_different_code_are_told(tmp_path):
    for seed, source in enumerate(("0" * 12, "1" * 12)):
        folder = write_run(tmp_path / f"seed{seed}", seed=seed)
        summary = json.loads((folder / "summary.json").read_text())
        summary["provenance"] = {"version/source": "a" * 12, "own_source": {"mine": source, "helping": "b" * 12}}
        (folder / "summary.json").write_text(json.dumps(summary))
    assert "not all runs were made with the same source of mine; `run` makes them anew" in compare(tmp_path).lines
