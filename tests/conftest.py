"""Fixtures for every test: a private cache, one thread, no hub, an MLflow store, a small stream, a small config."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Two stages of two labels each; a label shows in the words of its rows, so a small model learns it in a few steps.
WORDS = {
    "cold": "snow ice frost winter",
    "hot": "sun beach summer desert",
    "loud": "drum siren thunder shout",
    "quiet": "whisper library night hush",
}


# huggingface_hub and OpenMP read these when they are imported, as a folder's conftest may do, which is loaded later.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="agg")
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that wait for each other leave the cores to other workers
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and lines would be wrapped


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs experiments from end to end: those folders, and every test that asks for `make_fast` or `cli`."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        fixtures = {*getattr(item, "fixturenames", ())}
        if folder in ("runs", "docs", "benchmarks", "test_contributing.py") or fixtures & {"make_fast", "cli"}:
            item.add_marker("whole_run")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folders of both caches, for this session only: a test never reads what an older one left."""
    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CL_MLM_CACHE", str(root / "cl_mlm"))
        patch.setenv("HF_HOME", str(root / "huggingface"))
        yield root


@pytest.fixture
def one_thread() -> None:
    """torch on one thread: so the bits of a run do not depend on the machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that holds no run; copying it is faster than MLflow's migrations."""
    from cl_mlm.tracking.mlflow_store import open_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def shared_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of one store for all runs whose tests do not read it: each new store costs MLflow some time."""
    path = tmp_path_factory.mktemp("shared") / "mlflow.db"
    shutil.copyfile(empty_store, path)
    return f"sqlite:///{path}"


@pytest.fixture
def own_store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store of this test's own, also in MLFLOW_TRACKING_URI."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def make_rows(split: str, copies: int) -> list[dict[str, str]]:
    """Returns `copies` rows of every label; no two rows of any split have the same text."""
    return [
        {"text": f"{word} {word} {word} {i} {split}", "label": label}
        for i in range(copies)
        for label, words in WORDS.items()
        for word in [words.split()[i % 4]]
    ]


SPLITS = {"train": make_rows("first", 8), "validation": make_rows("second", 4), "test": make_rows("third", 6)}


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes a folder of JSON lines: `write_rows(folder, train=[...])`; splits not given are the sound default ones."""

    def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in (SPLITS | splits).items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


@pytest.fixture(scope="session")
def data_folder(write_rows: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound rows: four labels; nobody changes it."""
    return write_rows(tmp_path_factory.mktemp("data") / "weather")


@pytest.fixture(scope="session")
def small_stream() -> Any:
    """An in-memory stream of two stages with two labels each."""
    from datasets import Dataset

    from cl_mlm.stream import Stage, Stream

    labels = list(WORDS)

    def stage(index: int) -> Stage:
        own = tuple(labels[2 * index : 2 * index + 2])
        parts = {
            split: Dataset.from_list([row for row in rows if row["label"] in own]) for split, rows in SPLITS.items()
        }
        return Stage(name=f"stage {index}", labels=own, **parts)

    return Stream("small", (stage(0), stage(1)))


BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2}
LIKE_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MODELS = {
    "bert": LIKE_BERT | {"max_position_embeddings": 140},
    "roberta": LIKE_BERT | {"max_position_embeddings": 140},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 140},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 140},
    "llama": LIKE_BERT | {"num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": BART | {"max_position_embeddings": 140},
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folders of small random models of seven families: `model_folder("t5")`; each is made once."""
    from functools import cache

    @cache
    def make(kind: str) -> str:
        import torch
        from transformers import AutoConfig, AutoModel

        from cl_mlm.models.tiny import letter_tokenizer

        folder, tokenizer = tmp_path_factory.mktemp(kind), letter_tokenizer()
        torch.manual_seed(3)
        ids = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **MODELS[kind])
        model = AutoModel.from_config(config)
        with torch.no_grad():  # larger than the usual initialisation, so that a wrong token shows in the logits
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def fresh_process() -> Iterator[Callable[[], None]]:
    """One process has one precision and one number of threads: both are put back; a call puts the precision back."""
    import torch
    from accelerate.state import AcceleratorState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    threads = torch.get_num_threads()
    reset()
    yield reset
    reset()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def word_stream() -> Callable[..., Any]:
    """A stream of stages with two labels each, a word for every label: `word_stream(num_stages, rows, scenario)`."""
    from datasets import Dataset

    from cl_mlm.stream import Stage, Stream

    groups = (("cold", "hot"), ("loud", "quiet"), ("near", "far"))
    words = {"cold": "ice", "hot": "sun", "loud": "drum", "quiet": "hush", "near": "here", "far": "there"}

    def split(labels: tuple[str, ...], rows: int) -> Any:
        texts = [f"{words[labels[i % 2]]} {'and so on ' * (i % 3)}{i}" for i in range(rows)]
        return Dataset.from_dict({"text": texts, "label": [labels[i % 2] for i in range(rows)]})

    def make(num_stages: int = 2, rows: int = 12, scenario: Any = "class_incremental") -> Stream:
        stages = (
            Stage(labels[0], split(labels, rows), split(labels, 4), split(labels, 6), labels)
            for labels in groups[:num_stages]
        )
        return Stream("words", tuple(stages), scenario)

    return make


@pytest.fixture(scope="session")
def small_bert() -> Callable[..., Any]:
    """A random BERT of one layer as a backbone: `small_bert(num_labels, dropout)` has the same weights every time."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from cl_mlm.models.backbone import PlainBackbone
    from cl_mlm.models.tiny import letter_tokenizer

    tokenizer = letter_tokenizer()

    def make(num_labels: int, dropout: float = 0.0) -> PlainBackbone:
        torch.manual_seed(0)
        settings = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
            initializer_range=0.3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=num_labels,
            pad_token_id=tokenizer.pad_token_id,
        )
        return PlainBackbone(BertForSequenceClassification(settings), tokenizer, "sequence")

    return make


@pytest.fixture
def run_of(fresh_process: Callable[[], None]) -> Callable[..., Any]:
    """A run without folder and tracking: `run_of(config, stream, make_backbone, strategies, objective, last_stage)`.

    `make_backbone` is given the labels seen at `last_stage`; without an objective the stream's own is made.
    """
    from cl_mlm.data.tasks import tasks_of
    from cl_mlm.training.hardware import make_accelerator
    from cl_mlm.training.run import Run

    def make(
        config: Any,
        stream: Any,
        make_backbone: Callable[[tuple[str, ...]], Any],
        strategies: Any = (),
        objective: Any = None,
        last_stage: int = 0,
    ) -> Run:
        tasks = tasks_of(stream, None if objective is None else {objective.name: objective})
        tasks.count_labels(last_stage, -1)
        backbone = make_backbone(tasks.at(last_stage).labels.seen)
        return Run(config, stream, strategies, backbone, tasks, make_accelerator(config))

    return make


@pytest.fixture(scope="session")
def settled_imports(empty_store: Path) -> Iterator[None]:
    """Everything that a run imports, taken out of the garbage collector's sight: every stage of a run collects."""
    import gc

    import transformers.models.bert.modeling_bert  # noqa: F401

    import cl_mlm.experiment.running  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def make_fast(data_folder: Path, shared_store: str, settled_imports: None) -> Callable[[Path], dict[str, Any]]:
    """`make_fast(output)`: a config of two stages with 24 steps each, that writes below `output`."""

    def make(output: Path) -> dict[str, Any]:
        return {
            "experiment": "fast",
            "stream": {"name": "files", "path": str(data_folder), "labels_per_stage": 2, "order_seed": None},
            "model": {"name": "tiny", "dropout": 0.1},
            "training": {"epochs": 6, "batch_size": 4, "learning_rate": 1e-3, "threads": 1, "device": "cpu"},
            "tracking": {"uri": shared_store, "log_every": 1},
            "output": str(output),
        }

    return make


@pytest.fixture
def fast(make_fast: Callable[[Path], dict[str, Any]], tmp_path: Path, one_thread: None) -> dict[str, Any]:
    """`make_fast` below this test's own folder; free to change."""
    return make_fast(tmp_path / "runs")


@pytest.fixture
def mixed(fast: dict[str, Any], write_rows: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """`fast` with two objectives: the first stage asks for a label, the second for the tags of the same words."""
    tags = {"cold": "B-low", "hot": "B-high", "loud": "B-high", "quiet": "B-low"}
    tagged = {
        split: [{"tokens": ["a", *row["text"].split()], "tags": ["O", tags[row["label"]], *["O"] * 4]} for row in rows]
        for split, rows in SPLITS.items()
    }
    write_rows(tmp_path / "mixed" / "labels")
    write_rows(tmp_path / "mixed" / "tags", **tagged)
    stages = [{"path": "labels", "objective": "classification"}, {"path": "tags", "objective": "tagging"}]
    fast["stream"] = {"name": "files", "path": str(tmp_path / "mixed"), "stages_by": "files", "stages": stages}
    return fast


TOPICS = {"sky": ["sun", "moon", "star"], "sea": ["fish", "wave", "salt"]}


def three_rows(topic: str, word: str, i: int, split: str) -> dict[str, dict[str, Any]]:
    """Returns a row of every objective: an intent, slots, a question."""
    context = " ".join(f"{w} is {n} of {split} {i} in the {topic}." for n, w in enumerate(TOPICS[topic]))
    answer = f"{TOPICS[topic].index(word)} of"
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {
        "classification": {"text": f"{word} {split} intent {i}", "label": topic},
        "tagging": {"tokens": ["look", "a", word, split, str(i)], "tags": ["O", "O", f"B-{topic}", f"I-{topic}", "O"]},
        "question_answering": {"context": context, "question": f"what is {word}?", "answers": answers},
    }


@pytest.fixture(scope="session")
def three_objectives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one for each of three objectives, by its name: intents, slots and questions about two topics."""
    root = tmp_path_factory.mktemp("mixed")
    for split, size in {"train": 10, "validation": 2, "test": 6}.items():
        topics = [list(TOPICS)[i % 2] for i in range(size)]
        rows = [three_rows(topic, TOPICS[topic][i % 3], i, split) for i, topic in enumerate(topics)]
        for key in rows[0]:
            (root / key).mkdir(exist_ok=True)
            (root / key / f"{split}.jsonl").write_text("".join(json.dumps(row[key]) + "\n" for row in rows))
    return root


@pytest.fixture
def packed(fast: dict[str, Any]) -> dict[str, Any]:
    """`fast` as one stage of language modelling on texts that are joined and cut into blocks of 16 tokens."""
    kept = {"name": "files", "path": fast["stream"]["path"], "stages_by": "whole"}
    options = {"kind": "causal", "pack": True}
    fast["stream"] = {**kept, "objective": "language_modelling", "options": options}
    fast["model"] = {"name": "tiny-decoder", "dropout": 0.1}
    fast["training"] |= {"max_length": 16}
    return fast


@pytest.fixture(scope="session")
def write_config() -> Callable[[Path, dict[str, Any]], Path]:
    """Writes a config file; JSON is YAML."""

    def write(path: Path, values: dict[str, Any]) -> Path:
        path.write_text(json.dumps(values, indent=1))
        return path

    return write


@dataclass(frozen=True)
class Said:
    """What one command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], one_thread: None) -> Iterator[Callable[..., Said]]:
    """Runs one command line in this process: `cli("run", path, "seed=1")`."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Said:
        from cl_mlm.cli.app import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, said.out, said.err)

    yield call
    signal.signal(signal.SIGTERM, handler)
