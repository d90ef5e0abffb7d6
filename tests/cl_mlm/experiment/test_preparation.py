"""Rules of what is refused before a model is loaded, and of what a prepared run is."""

import json
from dataclasses import replace

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.experiment.preparation import check_output, prepare, with_objects
from strategies.lwf import Lwf
from strategies.replay import Replay


@pytest.fixture
def config(fast):
    return load_config(fast)


def test_threads_and_device_are_filled_in(config, monkeypatch):
    open_ended = replace(config, training=replace(config.training, threads=None, device=None))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    training = prepare(open_ended).config.training
    assert (training.threads, training.device) == (3, "cpu")


def test_a_prepared_run_has_its_strategies_in_order(config):
    made = prepare(replace(config, strategies={"replay": {"capacity": 3}, "lwf": {}})).strategies
    assert [type(strategy) for strategy in made] == [Replay, Lwf]
    assert made[0].capacity == 3


def test_a_limit_cuts_every_split(config):
    stream = prepare(replace(config, limit=2)).stream
    assert {len(stage.split(name)) for stage in stream.stages for name in ("train", "validation", "test")} == {2}
    assert "limited to 2 rows a split" in stream.notes


def test_overlapping_rows_are_dropped_where_the_config_says_so(config, write_rows, tmp_path, small_stream):
    leaked = [stage.test[0] for stage in small_stream.stages]
    train = [dict(row) for stage in small_stream.stages for row in stage.train]
    folder = write_rows(tmp_path / "leaky", train=[*train, *leaked])
    prepared = prepare(replace(config, stream={**config.stream, "path": str(folder), "overlap": "drop"}))
    assert prepared.overlap["dropped_train"] == 2
    assert [len(stage.train) for stage in prepared.stream.stages] == [16, 16]


def test_a_stream_object_replaces_that_of_the_config(config, small_stream):
    assert prepare(config, stream=small_stream).stream.name == "small"


def test_faults_of_data_alone_are_data_errors(config, write_rows, tmp_path):
    folder = write_rows(tmp_path / "bad", train=[{"text": "x"}])
    with pytest.raises(DataError, match=r"train.jsonl:1: no"):
        prepare(replace(config, stream={**config.stream, "path": str(folder)}))


def test_faults_of_every_part_are_told_together(config, tmp_path):
    (tmp_path / "file").write_text("")
    faulty = replace(
        config,
        strategies={"joint": {}, "ewc": {}},
        model=replace(config.model, name="./no/model"),
        output=str(tmp_path / "file"),
        stream={**config.stream, "labels_per_stage": 3},
        training=replace(config.training, precision="fp16"),
        tracking=replace(config.tracking, uri="folder"),
    )
    with pytest.raises(ConfigError) as caught:
        prepare(faulty)
    keys = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert keys == [
        *("strategies", "model.name", "tracking.uri", "output", "training.precision", "stream.labels_per_stage"),
    ]


def test_a_writable_output_is_accepted_before_it_exists(tmp_path):
    check_output(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"output: .*\({tmp_path / 'file'} is a file\)"):
        check_output(tmp_path / "file")


def test_objects_are_recorded_by_class_path_and_arguments(config):
    recorded = with_objects(config, None, [Replay(capacity=3)])
    assert recorded.strategies == {"strategies.replay.Replay": {"capacity": 3, "weight": 1.0, "rows": None}}


def test_a_stream_object_is_recorded_by_its_fingerprint(config, small_stream):
    recorded = with_objects(config, small_stream, None)
    assert recorded.stream == {"name": "small", "overlap": "error", "fingerprint": small_stream.fingerprint}
    other = replace(small_stream, scenario="task_incremental")
    assert with_objects(config, other, None).run_name != recorded.run_name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "tiny", "objective": "language_modelling"}, "model.name: the stream's objective needs .*CausalLM"),
        (
            {"model": "tiny-decoder", "objective": "language_modelling", "finetuning": {"mode": "head"}},
            "finetuning.mode: head leaves nothing to train",
        ),
    ],
)
def test_a_model_that_cannot_take_the_objective_is_refused_before_anything_is_written(tmp_path, settings, message):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps({"text": f"{split} row {i}", "k": "ab"[i % 2]}) + "\n" for i in range(4))
        )
    stream = {"name": "files", "path": str(tmp_path), "stages_by": "field", "field": "k"}
    settings = dict(settings)
    stream["objective"] = settings.pop("objective")
    with pytest.raises(ConfigError, match=message):
        prepare(load_config({"stream": stream, "output": str(tmp_path / "runs"), **settings}))
    assert not (tmp_path / "runs").exists()
