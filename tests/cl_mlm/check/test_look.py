"""What `cl-mlm check` says of rows, tokens, steps, memory and time."""

import json
import re
import shutil

import pytest

from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.check.text_table import aligned
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.progress import duration


@pytest.fixture
def look(fast):
    return lambda *overrides, steps=0: early_look(prepare(load_config(fast, overrides)), steps)


def test_every_stage_has_a_line_with_its_rows_labels_steps_and_scored_rows(look):
    lines = look_lines(look("training.epochs=3"))
    start = next(i for i, line in enumerate(lines) if line.startswith("rows "))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["rows", "train", "validation", "test", "labels", "steps", "rows", "scored"],
        ["1.", "labels-01", "16", "8", "12", "2", "12", "32"],
        ["2.", "labels-02", "16", "8", "12", "2", "12", "40"],
        ["all", "32", "16", "24", "4", "24", "72"],
    ]


def test_rows_that_are_cut_are_counted_in_lines_and_figures(look):
    """Every row is `word word word i split`: three times the pieces of a word, those of a number and of a name."""
    found = look("training.max_length=6")
    told = found.to_dict()
    assert told["tokens"]["text"]["limit"] == 6
    stages = [stage["tokens"]["text"] for stage in told["stages"]]
    assert sum(stage["cut_tokens"] for stage in stages) == told["tokens"]["text"]["cut_tokens"] > 0
    splits = [stages[0]["splits"][name]["counted_rows"] for name in ("train", "validation", "test")]
    assert (splits, stages[0]["counted_rows"]) == ([16, 8, 12], 36)
    figures = told["tokens"]["text"]
    line = next(line for line in look_lines(found) if line.startswith("  all") and "%" in line)
    assert f"{figures['longer_rows']} ({100 * figures['longer_share']:.1f} %)" in line
    assert f"{figures['cut_tokens']:,} (" in line


def test_nothing_is_cut_where_everything_fits(look):
    figures = look().to_dict()["tokens"]["text"]
    assert (figures["longer_rows"], figures["cut_tokens"]) == (0, 0)


def table(lines, head):
    """Returns the cells of the lines from the one that begins with `head` to the next empty one."""
    start = next(i for i, line in enumerate(lines) if line.startswith(head))
    return [line.split() for line in lines[start : lines.index("", start)]]


def test_columns_that_are_no_stages_have_lines_of_their_own(look):
    found = look("stream.scenario=online", "stream.chunk_rows=8", "stream.evaluate_every=2", "training.epochs=1")
    lines = look_lines(found)
    assert table(lines, "rows ")[:4] == [
        ["rows", "train", "labels", "steps", "rows", "scored"],
        ["1.", "labels-01-01", "8", "2", "2", "12"],
        ["2.", "labels-01-02", "8", "2", "2", "20"],
        ["3.", "labels-02-01", "8", "2", "2", "0"],
    ]
    assert table(lines, "scored on") == [
        ["scored", "on", "validation", "test", "labels", "learned", "after"],
        ["labels-01", "8", "12", "2", "stage", "2"],
        ["labels-02", "8", "12", "2", "stage", "4"],
    ]
    tokens = [row[:2] for row in table(lines, "tokens of a row")[1:]]
    assert tokens[-3:-1] == [["on", "labels-01"], ["on", "labels-02"]]
    told = found.to_dict()
    assert [stage["rows"] for stage in told["stages"]] == [{"train": 8}] * 4
    assert [stage["measured"] for stage in told["stages"]] == [False, True, False, True]
    column = told["columns"][1]
    assert (column["rows"], column["learned_after"]) == ({"validation": 8, "test": 12}, 3)
    assert column["tokens"]["text"]["counted_rows"] == 20


def test_a_probe_has_a_line_and_stages_keep_theirs(look, data_folder):
    found = look(f"stream.probes.held={data_folder}", "stream.overlap=keep")
    lines = look_lines(found)
    assert table(lines, "rows ")[0] == ["rows", "train", "validation", "test", "labels", "steps", "rows", "scored"]
    assert table(lines, "scored on")[1:] == [["held", "16", "24", "4", "a", "probe"]]
    assert [column["name"] for column in found.to_dict()["columns"]] == ["held"]


def test_of_many_stages_the_first_and_the_last_are_printed(look):
    found = look("stream.scenario=online", "stream.chunk_rows=1", "training.epochs=1")
    lines = look_lines(found)
    rows = table(lines, "rows ")
    assert [row[0] for row in rows[1:-1]] == [
        *(f"{i}." for i in range(1, 11)),
        "...",
        *(f"{i}." for i in range(28, 33)),
    ]
    assert rows[11] == ["...", "17", "more"]
    assert rows[-1][:2] == ["all", "32"]
    assert table(lines, "tokens of a row")[11] == ["...", "17", "more"]
    assert len(found.to_dict()["stages"]) == 32


def test_tokens_are_told_by_objective(mixed):
    found = early_look(prepare(load_config(mixed)))
    lines = look_lines(found)
    rows = [table(lines, f"tokens of a row ({name})") for name in ("classification", "tagging")]
    assert [[row[0] for row in own[1:]] for own in rows] == [["1.", "all"], ["2.", "all"]]
    told = found.to_dict()
    assert list(told["tokens"]) == ["classification/text", "tagging/text"]
    assert [stage["objective"] for stage in told["stages"]] == ["classification", "tagging"]
    assert told["tokens"]["tagging/text"]["counted_rows"] == told["stages"][1]["tokens"]["text"]["counted_rows"] == 72


def test_packed_rows_are_told_in_blocks(packed):
    found = early_look(prepare(load_config(packed, ["training.epochs=1"])))
    figures = found.to_dict()["tokens"]["block"]
    splits = found.to_dict()["stages"][0]["tokens"]["block"]["splits"]
    listed = " / ".join(str(splits[name]["counted_rows"]) for name in ("train", "validation", "test"))
    lines = look_lines(found)
    (line,) = [line for line in lines if line.startswith("packed: ")]
    assert line.startswith(f"packed: 72 texts become {listed} blocks (train / validation / test) of 16 tokens")
    assert (figures["longer_rows"], figures["cut_tokens"]) == (0, 0)
    assert figures["percentiles"]["50"] == figures["limit"] == 16
    assert found.steps == -(-splits["train"]["counted_rows"] // 4)
    assert [line for line in lines if line.startswith("steps: ") and "4 blocks each" in line]


def test_blocks_are_not_known_where_the_model_is_out_of_reach(packed):
    lines = look_lines(early_look(prepare(load_config(packed, ["model.name=some/where"]))))
    assert "packed: 72 texts become blocks; how many is not known, nor the steps" in lines
    assert [line for line in lines if line.startswith("steps: not known before")]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategies=[joint]"], "one training over the union of all stages"),
        (["strategies=[cumulative]"], "each stage trains on the rows of all stages so far"),
        (["strategies=[replay]"], "replay brings further rows back in them"),
        (["training.patience=2"], "at most: a stage ends after 2 epochs without a better validation score"),
        (["training.accumulation=3"], "12 rows each"),
        (["limit=6"], "a smoke run"),
    ],
)
def test_what_moves_the_number_of_steps_is_said(look, overrides, said):
    (line,) = [line for line in look_lines(look(*overrides)) if line.startswith("steps: ")]
    assert said in line


def test_memory_is_said_to_be_without_activations(look):
    (line,) = [line for line in look_lines(look("strategies=[lwf]")) if line.startswith("memory: ")]
    assert re.fullmatch(r"memory: .* \(weights .*\) without activations; what lwf keeps is not counted", line)


def test_a_model_out_of_reach_is_said_and_the_rest_is_told(look):
    found = look("model.name=some/where")
    lines = look_lines(found)
    assert "tokens, memory and disk: not known without the model" in lines
    assert lines[-1].startswith("good to run, if the model can be had: model.name: cannot load 'some/where'")
    assert found.to_dict()["stages"][0]["rows"] == {"train": 16, "validation": 8, "test": 12}
    assert found.to_dict()["memory"] is None


def test_nothing_is_provided_where_the_model_is_there(look):
    assert look_lines(look())[-1] == "good to run"


def test_the_fingerprint_fits_a_narrow_terminal(look):
    found = look()
    assert f"fingerprint {found.prepared.stream.fingerprint[:16]}" in look_lines(found, 60)
    assert len(found.to_dict()["stream"]["fingerprint"]) == 64


def test_a_model_without_tokenizer_is_said(look, model_folder, tmp_path):
    folder = shutil.copytree(model_folder("bert"), tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    (folder / "tokenizer.json").unlink()
    lines = look_lines(look(f"model.name={folder}"))
    assert [line for line in lines if line.startswith("memory: ")]
    assert "tokens: not known without the model" in lines
    assert lines[-1].startswith("good to run, if the model can be had: model.name: cannot load")


def test_a_model_out_of_reach_cannot_be_timed(look):
    with pytest.raises(ConfigError, match=r"--measure: needs the model itself; model\.name: cannot load"):
        look("model.name=some/where", steps=1)


def test_time_is_told_where_steps_were_timed(look):
    found = look("strategies=[ewc]", steps=1)
    lines = look_lines(found)
    assert [line for line in lines if re.match(r"timed: 1 steps? a stage on cpu: .*, of a later one ", line)]
    assert [line for line in lines if re.match(r"time: training .* s, evaluation .* s, by these steps", line)]
    assert min(found.to_dict()["seconds"].values()) > 0


def test_no_model_is_loaded_unless_steps_are_timed(look, monkeypatch):
    from cl_mlm.experiment import assembly

    def fail(*arguments, **named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(assembly, "load_backbone", fail)
    assert look().to_dict()["timed"] is None
    with pytest.raises(AssertionError, match="a model was loaded"):
        look(steps=1)


def test_check_prints_the_same_as_json(cli, fast, write_config, tmp_path):
    fast["arms"] = {"naive": {}, "ewc": {"strategies": {"ewc": {}}}}
    path = write_config(tmp_path / "a.yaml", fast)
    one = json.loads(cli("check", path, "--json").out)
    both = json.loads(cli("check", path, "--json", "--arm", "all").out)
    assert both[0] == one
    assert [found["strategies"] for found in both] == ["naive", "ewc"]
    assert one["steps"] == sum(stage["training"]["steps"] for stage in one["stages"]) == 48


def test_check_measures_on_demand_and_writes_nothing(cli, fast, write_config, tmp_path):
    said = cli("check", write_config(tmp_path / "a.yaml", fast), "--measure", 1)
    assert said.code == 0
    assert "timed: 1 step a stage on cpu" in said.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", ["-1", "some"])
def test_steps_to_time_must_be_a_number(cli, fast, write_config, tmp_path, number):
    said = cli("check", write_config(tmp_path / "a.yaml", fast), "--measure", number)
    assert said.code == 2
    assert "--measure" in said.err


def test_tables_are_aligned():
    assert aligned(["name", "rows"], [["a", "1,000"], ["longer", "2"]]) == [
        "name     rows",
        "a       1,000",
        "longer      2",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (7261, "2 h 1 min")]
)
def test_durations_are_shown_in_the_units_that_suit_them(seconds, text):
    assert duration(seconds) == text
