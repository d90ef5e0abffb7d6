"""A benchmark of texts made with Avalanche becomes a stream; what is none is refused in words."""

import warnings

import pytest
from datasets import Dataset

import cl_mlm
from cl_mlm import ConfigError, DataError, Stage, Stream
from cl_mlm.config.components import make_stream as build
from cl_mlm.config.components import names
from streams.avalanche import from_avalanche, to_avalanche

MODULE = """
import warnings

def rows(stage, split, labels):
    return [(f"{word} {word} {split} {stage} {i}", label) for i in range(6) for label, word in labels]

def make_benchmark(stages=2, valid=True, first=0):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no QP solver found", UserWarning)
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import AvalancheDataset
    words = ("snow", "sun", "drum", "hush")
    streams = {}
    for name in ("train", "valid", "test") if valid else ("train", "test"):
        own = [[(k, words[k]) for k in (first + 2 * i, first + 2 * i + 1)] for i in range(stages)]
        streams[name] = [AvalancheDataset([rows(i, name, labels)]) for i, labels in enumerate(own)]
    return benchmark_from_datasets(**streams)

def nothing():
    return {}

text = "no function"
"""


def make_datasets(streams):
    """Returns Avalanche's benchmark of lists of items: `{"train": [[(text, class), ...], ...], ...}`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no QP solver found", UserWarning)
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import AvalancheDataset
    return benchmark_from_datasets(
        **{name: [AvalancheDataset([rows]) for rows in experiences] for name, experiences in streams.items()}
    )


def items(classes, split="train", task=None, repeat=4):
    tail = () if task is None else (task,)
    return [(f"{split} {c} {task} {i}", c, *tail) for i in range(repeat) for c in classes]


def both(*stages):
    """Training and test streams, a stage an argument: (classes, task label)."""
    return make_datasets({n: [items(c, n, task) for c, task in stages] for n in ("train", "valid", "test")})


def make_stream(scenario, pair=False):
    labels = [("cold", "hot"), ("cold", "hot") if scenario == "domain_incremental" else ("loud", "quiet")]

    def split(i, name):
        rows = [{"text": f"{label} {name} {i} {k}", "label": label} for k in range(3) for label in labels[i]]
        return Dataset.from_list([{**row, "text_pair": "and"} for row in rows] if pair else rows)

    parts = ("train", "validation", "test")
    stages = (Stage(f"part {i}", labels=own, **{n: split(i, n) for n in parts}) for i, own in enumerate(labels))
    return Stream("toy", tuple(stages), scenario)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("scenario", ["class_incremental", "task_incremental", "domain_incremental"])
def test_a_stream_comes_back_as_it_went(scenario, pair):
    stream = make_stream(scenario, pair)
    back = from_avalanche(to_avalanche(stream, None), name="toy")
    for before, after in zip(stream.stages, back.stages, strict=True):
        for split in ("train", "validation", "test"):
            assert after.split(split)[:] == before.split(split)[:]
        assert (after.name, after.labels) == (before.name, before.labels)
    assert back.scenario == scenario
    assert back.fingerprint == stream.fingerprint


@pytest.mark.parametrize(
    ("stages", "scenario", "labels"),
    [
        ([((0, 1), None), ((2, 3), None)], "class_incremental", [("0", "1"), ("2", "3")]),
        ([((0, 1), None), ((1, 2), None)], "class_incremental", [("0", "1"), ("1", "2")]),
        ([((0, 1), None), ((1, 0), None)], "domain_incremental", [("0", "1"), ("0", "1")]),
        ([((0, 1), 0), ((2, 3), 1)], "task_incremental", [("0", "1"), ("2", "3")]),
        ([((0, 1), 5), ((0, 1), 7)], "task_incremental", [("5/0", "5/1"), ("7/0", "7/1")]),
        ([((2, 10), None)], "class_incremental", [("2", "10")]),
    ],
)
def test_the_scenario_is_found_from_task_labels_and_classes(stages, scenario, labels):
    stream = from_avalanche(both(*stages))
    assert stream.scenario == scenario
    assert [stage.labels for stage in stream.stages] == labels
    assert set(stream.stages[-1].train["label"]) == set(labels[-1])


def test_the_scenario_can_be_given():
    assert from_avalanche(both(((0, 1), None)), scenario="domain_incremental").scenario == "domain_incremental"


def test_classes_get_the_names_that_are_given():
    stream = from_avalanche(both(((1, 0), None), ((2, 3), None)), labels=["a", "b", "c", "d"])
    assert [stage.labels for stage in stream.stages] == [("a", "b"), ("c", "d")]
    assert stream.stages[0].train[:2] == {"text": ["train 1 None 0", "train 0 None 0"], "label": ["b", "a"]}


def test_a_benchmark_split_by_avalanche_itself_is_read():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no QP solver found", UserWarning)
        from avalanche.benchmarks import class_incremental_benchmark
        from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute

    def dataset(split):
        rows = [(f"{split} {c} {i}", c) for i in range(3) for c in range(4)]
        return AvalancheDataset([rows], data_attributes=[DataAttribute([c for _, c in rows], "targets")])

    made = class_incremental_benchmark({"train": dataset("train"), "test": dataset("test")}, num_experiences=2, seed=1)
    stream = from_avalanche(made, validation_fraction=0.34)
    assert [len(stage.labels) for stage in stream.stages] == [2, 2]
    assert sorted(label for stage in stream.stages for label in stage.labels) == ["0", "1", "2", "3"]
    assert [len(stage.train) + len(stage.validation) for stage in stream.stages] == [6, 6]
    assert stream.notes == ("validation carved from train: 34 % of rows",)
    rows = [(row["text"], row["label"]) for stage in stream.stages for row in stage.test]
    assert len(rows) == 12
    assert all(text.split()[1] == label for text, label in rows)


def test_tensors_are_read_as_numbers():
    import torch

    rows = [(f"a {i}", torch.tensor(i % 2)) for i in range(4)]
    stream = from_avalanche(make_datasets({"train": [rows], "valid": [rows], "test": [rows]}))
    assert stream.stages[0].labels == ("0", "1")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([({"input_ids": [1, 2]}, 0)], "token ids will not do.*got a mapping with input_ids list in item 0"),
        ([("good", 0), ([1, 2], 0)], "got list in item 1"),
        ([({"text": 3}, 0)], "got a mapping with text int in item 0"),
        ([("alone",)], r"an item must be \(text, class\) or .*got tuple in item 0"),
        ([("a", 0), ({"text": "a", "text_pair": "b"}, 0)], r"every item must have the columns \('text',\)"),
    ],
)
def test_rows_that_are_no_texts_are_refused(rows, said):
    good = items((0, 1))
    with pytest.raises(DataError, match=f"train experience 0: .*{said}"):
        from_avalanche(make_datasets({"train": [rows], "valid": [good], "test": [good]}))


def test_streams_of_different_numbers_of_experiences_are_refused():
    good = items((0, 1))
    with pytest.raises(DataError, match="one experience for each stage, got train 2, test 1"):
        from_avalanche(make_datasets({"train": [good, good], "test": [good]}))


def test_an_experience_of_two_tasks_is_refused():
    good = [*items((0, 1), task=0), *items((0, 1), task=1)]
    with pytest.raises(DataError, match="experience 0: must have one task label in all streams, got 0, 1"):
        from_avalanche(make_datasets({"train": [good], "test": [good]}))


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a"], "must name every class, got 1 names and class 1"), (["a", "a"], "must be different")],
)
def test_names_that_do_not_fit_are_refused(labels, said):
    with pytest.raises(ConfigError, match=f"stream.labels: {said}"):
        from_avalanche(both(((0, 1), None)), labels=labels)


@pytest.mark.parametrize(("classes", "labels"), [((0, 1), ["red", "red\u00a0"]), (("red", "red\u00a0"), None)])
def test_labels_that_look_the_same_are_told_with_a_way_that_this_stream_has(classes, labels):
    with pytest.raises(DataError, match=r"benchmark: labels must .* 'red' and 'red\\xa0'; mend the .*stream.labels"):
        from_avalanche(both((classes, None)), labels=labels)


def test_what_is_no_benchmark_is_refused():
    with pytest.raises(ConfigError, match="must be an Avalanche benchmark with the streams train and test, got dict"):
        from_avalanche({})


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_texts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_texts"
    import sys

    sys.modules.pop("my_texts", None)


def test_a_config_names_the_function_that_makes_the_benchmark(module, fast):
    fast["stream"] = {"name": "avalanche", "benchmark": f"{module}.make_benchmark", "arguments": {"stages": 2}}
    fast["training"] |= {"steps": 2}
    result = cl_mlm.run(fast, progress=False)
    assert result.summary["stream"]["name"] == "make_benchmark"
    assert result.summary["columns"] == ["experience-01", "experience-02"]
    assert result.matrix.shape == (2, 2)


def test_arguments_reach_the_function(module):
    given = {"stages": 1, "valid": False, "first": 2}
    stream = build("avalanche", {"benchmark": f"{module}.make_benchmark", "arguments": given, "labels": list("abcd")})
    assert [stage.labels for stage in stream.stages] == [("c", "d")]
    assert stream.notes == ("validation carved from train: 10 % of rows",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"benchmark": "make_benchmark"}, "stream.benchmark: must be a dotted path to a function"),
        ({"benchmark": "no_such_module.make"}, "stream.benchmark: cannot import 'no_such_module'"),
        ({"benchmark": "my_texts.make_benchmrk"}, r"stream.benchmark: .*did you mean 'make_benchmark'\?"),
        ({"benchmark": "my_texts.text"}, "stream.benchmark: 'my_texts.text' must be a function"),
        ({"benchmark": "my_texts.nothing"}, "stream.benchmark: must be an Avalanche benchmark"),
        (
            {"benchmark": "my_texts.make_benchmark", "arguments": {"stage": 3}},
            "stream.arguments: my_texts.make_benchmark does not take them: .*'stage'",
        ),
    ],
)
def test_faults_of_a_config_are_told_with_their_key(module, arguments, said):
    with pytest.raises(ConfigError, match=said):
        build("avalanche", arguments)


def test_the_stream_is_listed():
    assert "avalanche" in names("stream")
    assert "_from_avalanche" not in names("stream")


def broken():
    raise ValueError("boom")


def leaves():
    raise SystemExit(0)


@pytest.mark.parametrize(("function", "said"), [("broken", "ValueError: boom"), ("leaves", "SystemExit: 0")])
def test_what_a_function_of_the_users_raises_is_told_and_no_success(function, said, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "their_module", sys.modules[__name__])
    with pytest.raises(ConfigError, match=f"stream.benchmark: 'their_module.{function}' failed: {said}"):
        build("avalanche", {"benchmark": f"their_module.{function}"})
