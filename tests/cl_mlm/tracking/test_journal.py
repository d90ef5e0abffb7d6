"""Rules of the journal."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_mlm.errors import RunFolderError
from cl_mlm.tracking.credentials import without_credentials
from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.slugs import slugs


def started(path: Path) -> Journal:
    journal = Journal(path)
    journal.start("quickstart", "naive-seed0")
    return journal


def lines(path: Path) -> list[dict]:
    return [line for line, _ in read_lines(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_every_line_is_json_with_a_kind_and_its_time_in_milliseconds(path):
    before = time.time_ns() // 1_000_000
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        journal.metrics({"train/loss": 0.5}, step=3, stage=0)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in written] == ["start", "stage_start", "metrics"]
    assert all(isinstance(line["time"], int) for line in written)
    assert all(before <= line["time"] <= time.time_ns() // 1_000_000 for line in written)


def test_lines_say_what_was_logged(path):
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        journal.metrics({"accuracy/weather": 0.25}, step=0)
        journal.params({"seed": 0, "strategies": [], "output": Path("runs")})
        journal.tags({"git": "abc"}, stage=0)
        journal.artifact(path.parent / "figures" / "matrix.png")
        journal.status("FINISHED", 0)
    said = [{key: value for key, value in line.items() if key != "time"} for line in lines(path)[1:]]
    assert said == [
        {"kind": "stage_start", "stage": 0, "name": "Weather"},
        {"kind": "metrics", "stage": None, "step": 0, "values": {"accuracy/weather": 0.25}},
        {"kind": "params", "values": {"seed": 0, "strategies": [], "output": "runs"}},
        {"kind": "tags", "stage": 0, "values": {"git": "abc"}},
        {"kind": "artifact", "stage": None, "path": "figures/matrix.png"},
        {"kind": "status", "stage": 0, "value": "FINISHED"},
    ]


def test_values_that_are_not_finite_are_named_and_left_out(path):
    with started(path) as journal:
        journal.metrics({"a": math.nan, "b": 1.0, "c": -math.inf}, step=0)
    line = lines(path)[-1]
    assert line["values"] == {"b": 1.0}
    assert line["not_finite"] == ["a", "c"]


def test_a_parameter_that_is_not_finite_is_still_json(path):
    with started(path) as journal:
        journal.params({"weight": math.inf})
    assert json.loads(path.read_text().splitlines()[-1], parse_constant=pytest.fail)["values"] == {"weight": "Infinity"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.dictionaries(st.text(min_size=1, max_size=20), st.floats(allow_nan=False, allow_infinity=False), max_size=5)
)
def test_finite_values_come_back_to_the_bit(tmp_path_factory, keys):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with started(path) as journal:
        journal.metrics(keys, step=1)
    read = {key: value for line in lines(path)[1:] for key, value in line["values"].items()}
    assert read == keys
    with started(path) as journal:
        journal.metrics(keys, step=1)
    assert len(lines(path)) == 1 + bool(keys)


def test_a_killed_writer_loses_no_line(path):
    journal = started(path)
    journal.metrics({"a": 1.0}, step=0)
    assert lines(path)[-1]["values"] == {"a": 1.0}  # not synced, not closed
    journal.close()


@pytest.mark.parametrize("torn", [b'{"time":1,"kind":"met', b"\0\0\0", b"{}" * 50_000])
def test_a_torn_last_line_is_cut_off(path, torn):
    with started(path) as journal:
        journal.metrics({"a": 1.0}, step=0)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with started(path):
        assert path.read_bytes() == whole


def test_a_file_of_one_torn_line_starts_anew(path):
    path.write_bytes(b'{"time":1,"ki')
    with started(path):
        pass
    assert [line["kind"] for line in lines(path)] == ["start"]


def test_the_journal_goes_on_after_a_torn_line(path):
    with started(path) as journal:
        journal.metrics({"a": 1.0, "b": 2.0}, step=0)
    path.write_bytes(path.read_bytes()[:-1])
    with started(path) as journal:
        journal.metrics({"a": 1.0, "b": 2.0}, step=0)
    assert [line["kind"] for line in lines(path)] == ["start", "metrics"]


def test_a_damaged_line_in_the_middle_is_refused_with_its_place(path):
    started(path).close()
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    with pytest.raises(RunFolderError, match=f"journal.jsonl: bytes {size}-{size + 9} must be a JSON line"):
        Journal(path)


def test_reading_leaves_out_a_line_still_being_written(path):
    started(path).close()
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"kind":')
    assert [offset for _, offset in read_lines(path)] == [end]


def test_reading_goes_on_from_an_offset(path):
    with started(path) as journal:
        journal.metrics({"a": 1.0}, step=0)
        (_, offset), *_ = read_lines(path)
        assert [line["kind"] for line, _ in read_lines(path, offset)] == ["metrics"]


def test_retrained_steps_write_no_point_twice(path):
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        journal.metrics({"train/loss": 0.1, "train/rate": 1}, step=1, stage=0)
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        journal.metrics({"train/loss": 0.1, "train/rate": 1.0}, step=1, stage=0)
        journal.metrics({"train/loss": 0.1, "train/rate": 1.0}, step=2, stage=0)
    assert [line["step"] for line in lines(path) if line["kind"] == "metrics"] == [1, 2]


def test_only_the_new_points_of_a_step_are_written(path):
    with started(path) as journal:
        journal.metrics({"a": 1.0}, step=0)
    with started(path) as journal:
        journal.metrics({"a": 1.0, "b": 2.0}, step=0)
    assert lines(path)[-1]["values"] == {"b": 2.0}


def test_the_same_key_and_step_of_another_stage_is_another_point(path):
    with started(path) as journal:
        for stage in range(2):
            journal.stage_start(stage, f"stage {stage}")
            journal.metrics({"train/loss": float(stage)}, step=1, stage=stage)
        journal.metrics({"train/loss": 7.0}, step=1)
    assert [line["values"]["train/loss"] for line in lines(path) if line["kind"] == "metrics"] == [0.0, 1.0, 7.0]


def test_an_unequal_retrained_point_is_refused_with_both_values(path):
    with started(path) as journal:
        journal.stage_start(2, "Weather")
        journal.metrics({"train/loss": 0.125}, step=40, stage=2)
    with (
        started(path) as journal,
        pytest.raises(RunFolderError, match=r"train/loss of stage 2 at step 40 must be 0\.125 as before, got 0\.25"),
    ):
        journal.metrics({"train/loss": 0.25}, step=40, stage=2)


@pytest.mark.parametrize(("before", "after"), [(math.nan, 1.0), (1.0, math.nan), (0.0, math.inf)])
def test_finite_and_not_finite_are_unequal(path, before, after):
    with started(path) as journal:
        journal.metrics({"a": before}, step=0)
    with started(path) as journal, pytest.raises(RunFolderError, match="a at step 0"):
        journal.metrics({"a": after}, step=0)


def test_a_point_that_is_not_finite_again_is_skipped(path):
    for _ in range(2):
        with started(path) as journal:
            journal.metrics({"a": math.nan}, step=0)
    assert len(lines(path)) == 2


@pytest.mark.parametrize("key", ["time/step", "cost/train_seconds"])
def test_wall_clock_facts_of_retrained_steps_are_skipped(path, key):
    for seconds in (1.0, 2.0):
        with started(path) as journal:
            journal.metrics({key: seconds}, step=0)
    assert [line["values"] for line in lines(path)[1:]] == [{key: 1.0}]


def test_numpy_numbers_and_booleans_become_json_numbers(path):
    import numpy as np

    with started(path) as journal:
        journal.metrics({"a": np.float32(0.5), "b": np.int64(3), "c": True}, step=0)
    assert lines(path)[-1]["values"] == {"a": 0.5, "b": 3.0, "c": 1.0}


def test_equal_params_and_tags_are_written_once(path):
    for _ in range(2):
        with started(path) as journal:
            journal.params({"seed": 0, "betas": (0.9, 0.999)})
            journal.tags({"git": "abc"})
    assert [line["kind"] for line in lines(path)] == ["start", "params", "tags"]


def test_a_parameter_keeps_its_first_value(path):
    for minutes in (10, 20):
        with started(path) as journal:
            journal.params({"checkpoint.every_minutes": minutes})
    assert [line["values"] for line in lines(path)[1:]] == [{"checkpoint.every_minutes": 10}]


def test_credentials_are_left_out_of_params_and_tags(path):
    with started(path) as journal:
        journal.params({"tracking.uri": "http://me:s3cret@host", "nested": ["http://me:s3cret@host"]})
        journal.tags({"tracker": "https://s3cret@host/x"})
    assert "s3cret" not in path.read_text()
    assert lines(path)[1]["values"] == {"tracking.uri": "http://host", "nested": ["http://host"]}


def test_a_changed_tag_is_written_again(path):
    with started(path) as journal:
        journal.tags({"torch": "1"})
        journal.tags({"torch": "2"})
    assert [line["values"]["torch"] for line in lines(path)[1:]] == ["1", "2"]


def test_a_resumed_run_and_stage_are_running_again(path):
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        journal.status("FAILED", 0)
        journal.status("FAILED")
    with started(path) as journal:
        journal.stage_start(0, "Weather")
    assert [(line["stage"], line["value"]) for line in lines(path) if line["kind"] == "status"] == [
        (0, "FAILED"),
        (None, "FAILED"),
        (None, "RUNNING"),
        (0, "RUNNING"),
    ]


def test_a_run_killed_outright_is_resumed_without_a_status_line(path):
    for _ in range(2):
        with started(path) as journal:
            journal.stage_start(0, "Weather")
    assert [line["kind"] for line in lines(path)] == ["start", "stage_start"]


def test_another_runs_journal_is_refused(path):
    started(path).close()
    with Journal(path) as journal, pytest.raises(RunFolderError, match="'naive-seed0'"):
        journal.start("quickstart", "replay-seed0")


def test_a_stage_that_changed_its_name_is_refused(path):
    with started(path) as journal:
        journal.stage_start(0, "Weather")
        with pytest.raises(RunFolderError, match="stage 0 must be 'Weather' as before, got 'Music'"):
            journal.stage_start(0, "Music")


def test_start_must_come_first(path):
    with Journal(path) as journal, pytest.raises(ValueError, match="start"):
        journal.metrics({"a": 1.0}, step=0)


def test_a_stage_must_be_started_before_it_logs(path):
    with started(path) as journal, pytest.raises(ValueError, match="stage 1 must have been started"):
        journal.metrics({"a": 1.0}, step=0, stage=1)


def test_an_unknown_status_is_refused(path):
    with started(path) as journal, pytest.raises(ValueError, match="DONE"):
        journal.status("DONE")


def test_an_artifact_outside_the_run_folder_is_refused(path):
    with started(path) as journal, pytest.raises(ValueError, match="elsewhere"):
        journal.artifact("../elsewhere.png")


def test_closing_twice_does_nothing(path):
    journal = started(path)
    journal.close()
    journal.close()
    assert len(lines(path)) == 1


def test_a_metrics_call_is_cheap(path):
    values = {f"train/term/{name}": 0.123456789 for name in range(5)}
    with started(path) as journal:
        best = math.inf
        for repeat in range(5):
            began = time.perf_counter()
            for step in range(200):
                journal.metrics(values, step=repeat * 200 + step)
            best = min(best, (time.perf_counter() - began) / 200)
    assert best < 200e-6  # 50 microseconds on an idle machine, with room for a busy one
    print(f"{best * 1e6:.0f} us")


@pytest.mark.parametrize(
    "address",
    [
        "http://user:s3cret@host:5000/path",
        "see https://s3cret@host/x",
        "http://u:s3@s3cret@host",
        "postgresql://host/db?user=me&password=s3cret&x=1",
        "failed: http://u:s3cret@host/api, then http://v:s3cret@other",
    ],
)
def test_credentials_are_taken_out(address):
    shown = without_credentials(address)
    assert "s3cret" not in shown
    assert "host" in shown


def test_an_address_without_credentials_is_left_as_it_is():
    for address in ("sqlite:////data/me@home/mlflow.db", "http://host:5000/a@b"):
        assert without_credentials(address) == address


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "metrics", "stage": None, "step": 0, "valuer": {}},
        {"kind": "tags", "stbge": None, "values": {}},
        {"kind": "status", "stage": None},
    ],
)
def test_a_line_that_lacks_what_its_kind_has_is_refused(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match="must be a journal line"):
        list(read_lines(path))


def test_of_finished_stages_nothing_is_kept_in_memory_and_the_next_process_still_writes_nothing_twice(path):
    def stage(journal, index):
        journal.stage_start(index, f"s{index}")
        journal.tags({"labels": "a, b"}, index)
        journal.metrics({"train/loss": 0.5}, 0, index)
        journal.metrics({"accuracy": 0.25}, index)
        journal.status("FINISHED", index)

    with started(path) as journal:
        for index in range(3):
            stage(journal, index)
        assert (set(journal._points), set(journal._tags)) == ({None}, set())
    before = path.read_bytes()
    with Journal(path) as journal:
        for index in range(3):
            journal.metrics({"train/loss": 0.5}, 0, index)
            journal.tags({"labels": "a, b"}, index)
            journal.metrics({"accuracy": 0.25}, index)
    assert path.read_bytes() == before


def test_slugs_of_many_stages_are_numbered_in_turn():
    assert slugs(["a", "a", "A", "a-2", "b", "a"]) == ["a", "a-2", "a-3", "a-2-2", "b", "a-4"]
