"""Small streams, whose rows and labels a test says, and the faults of one."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config
from cl_mlm.data.hygiene import clean
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.size import ModelSize, model_size
from cl_mlm.objectives.classification import Classification
from cl_mlm.stream import SPLITS, Stage, Stream
from strategies.replay import Replay


@pytest.fixture(scope="session")
def rows() -> Callable[..., Dataset]:
    """Rows of these texts and labels: `rows(("a text", "label"), ...)`."""
    return lambda *pairs: Dataset.from_dict(
        {"text": [text for text, _ in pairs], "label": [label for _, label in pairs]}
    )


@pytest.fixture(scope="session")
def make_stage(rows: Callable[..., Dataset]) -> Callable[..., Stage]:
    """A stage with a row of every label in every split that is not given."""

    def make(name: str = "one", labels: tuple[str, ...] = ("a", "b"), **splits: Any) -> Stage:
        default = {split: rows(*((f"{name} {split} {label}", label) for label in labels)) for split in SPLITS}
        return Stage(name=name, labels=labels, **(default | splits))

    return make


@pytest.fixture(scope="session")
def make_stream(make_stage: Callable[..., Stage]) -> Callable[..., Stream]:
    """A stream of these stages, or of two with two labels each."""

    def make(*stages: Stage, scenario: Any = "class_incremental") -> Stream:
        return Stream("toy", stages or (make_stage("one"), make_stage("two", ("c", "d"))), scenario=scenario)

    return make


@pytest.fixture(scope="session")
def faults() -> Callable[..., list[str]]:
    """The faults with which the gate refuses a stream."""

    def find(stream: Stream, overlap: Any = "error") -> list[str]:
        with pytest.raises(DataError) as caught:
            clean(stream, overlap)
        return caught.value.problems

    return find


class Trap:
    """A pickle that, when it is read, makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


@pytest.fixture
def trap() -> Callable[[Path], Any]:
    """An object whose pickle makes a folder when it is read: `trap(path)`."""
    return lambda path: Trap(str(path))


@pytest.fixture(scope="session")
def tiny_size() -> ModelSize:
    """The numbers of the tiny model with 4 labels."""
    return model_size(Config(), list("abcd"), Classification())


@pytest.fixture
def quick(fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`fast` with two steps a stage and no drawing of figures, for tests that look at neither."""
    monkeypatch.setattr("cl_mlm.experiment.reporting.write_run_report", lambda folder, summary: [])
    fast["training"] |= {"steps": 2}
    return fast


@pytest.fixture(scope="session")
def result(
    make_fast: Callable[[Path], dict[str, Any]], small_stream: Stream, tmp_path_factory: pytest.TempPathFactory
) -> cl_mlm.Result:
    """A run of a stream handed over as an object, that keeps every stage; nobody changes its folder."""
    config = make_fast(tmp_path_factory.mktemp("runs"))
    return cl_mlm.run(config, "checkpoint.keep_stages=all", stream=small_stream, strategies=[Replay(capacity=6)])


@pytest.fixture
def write_labelled() -> Callable[..., str]:
    """Writes a folder of rows with the labels a to d, six of each in every split; returns its path."""

    def write(folder: Path, word: str, splits: Sequence[str] = SPLITS) -> str:
        folder.mkdir(parents=True)
        for split in splits:
            lines = [{"text": f"{word} {split} {label} {i}", "label": label} for i in range(6) for label in "abcd"]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(folder)

    return write


@pytest.fixture
def stream_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_labelled: Callable[..., str]
) -> Callable[..., Stream]:
    """The prepared stream of a section over four labels; a key whose value is `unset` is left out."""
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)
    path = write_labelled(tmp_path / "mine", "mine")

    def build(stream: dict[str, Any], training: dict[str, Any] | None = None, **settings: Any) -> Stream:
        section = {"name": "files", "path": path, "order_seed": None, "labels_per_stage": 2, **stream}
        section = {key: value for key, value in section.items() if value != "unset"}
        values = {"stream": section, "training": {"epochs": 1, **(training or {})}, "output": str(tmp_path / "runs")}
        return prepare(load_config({**values, **settings})).stream

    return build


@pytest.fixture
def section_faults(stream_of: Callable[..., Stream]) -> Callable[..., list[str]]:
    """The faults with which a stream section is refused."""

    def find(*arguments: Any, **named: Any) -> list[str]:
        with pytest.raises((ConfigError, DataError)) as caught:
            stream_of(*arguments, **named)
        return caught.value.problems

    return find
