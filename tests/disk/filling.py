"""A small run in a folder that is too small for it; then there is room, and the same command goes on."""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass, field
from unittest.mock import patch

from quota import Quota
from verdict import compare
from world import World, in_child

ROOM_KB = 65536  # what is given in the end: more than any run here takes
# What has little room.
INSIDE = {
    "all": ("runs", "cache"),
    "output": ("runs",),
    "cache": ("cache",),
    "store": ("store",),
    "files": ("runs", "cache"),
}
KINDS = tuple(INSIDE)
STRATEGIES = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}
ADVICE = "the same command goes on"


@dataclass
class Outcome:
    """What became of a run in little room.

    Attributes:
        kind: what lay in it: `all` (output and cache), `output`, `cache`, `store` (MLflow), or `files`: as `all`, but
            the number of files is limited in place of their size.
        size: KiB, or the number of files.
        codes: exit codes: in little room, then with room.
        said: the lines of an error.
        left_kb: what lay there after the first try.
        faults: what should not be.
    """

    kind: str
    size: int
    codes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    left_kb: int = 0
    faults: list[str] = field(default_factory=list)


class Filling(World):
    """The folders of one test below `root`: data, a model, an empty store, `whole`, and a folder for each try.

    Args:
        root: the folder.
        store: an empty store to copy; None: one is made.
    """

    def __init__(self, root, store=None):
        super().__init__(root)
        self._store = store

    def write_rows(self):
        with patch("world.NUM_WORDS", 3):
            super().write_rows()

    def _make_store(self, pipe):
        if self._store is None:
            super()._make_store(pipe)
        else:
            shutil.copyfile(self._store, self.root / "empty.db")

    def prepare(self):
        """Writes rows, model and store, and makes the run that has room."""
        super().prepare()
        make_model(self.root / "model")
        folder = self.root / "whole"
        self._lay_out(folder, "all")
        code, text = self._run_command(folder)
        if code:
            raise RuntimeError(text)

    def play(self, kind, size):
        """Returns what becomes of a run with `size` KiB, or files, for what `kind` names."""
        folder = self.root / f"{kind}-{size}"
        pipe, child = in_child(lambda pipe: self._play(kind, size, folder, pipe), self.root / f"{folder.name}.log")
        with os.fdopen(pipe) as said:
            text = said.read()
        os.waitpid(child, 0)
        if not text:
            raise RuntimeError((self.root / f"{folder.name}.log").read_text())
        shutil.rmtree(folder, ignore_errors=True)
        return Outcome(**json.loads(text))

    def _play(self, kind, size, folder, pipe):
        outcome = Outcome(kind, size)
        quota = Quota(folder / "space", ROOM_KB if kind == "files" else size, size if kind == "files" else None)
        self._lay_out(folder, kind)
        code, text = self._run_command(folder)
        outcome.codes.append(code)
        outcome.said = [line for line in text.splitlines() if re.match(r"error: |\d+ errors: |warning: ", line)]
        outcome.left_kb = quota.used_kb()
        outcome.faults += self._after_the_first(folder, kind, code, text)
        quota.give(ROOM_KB)
        code, text = self._run_command(folder)
        outcome.codes.append(code)
        outcome.faults += [f"with room: exit code {code}: {text[-600:]}"] if code else self._at_the_end(folder, kind)
        os.write(pipe, json.dumps(asdict(outcome)).encode())

    def _after_the_first(self, folder, kind, code, text):
        faults = []
        if code not in (0, 1, 2):
            faults.append(f"exit code {code}: {text[-600:]}")
        if "Traceback" in text:
            faults.append(f"a traceback: {text[text.index('Traceback') - 200 :][:3000]}")
        if code:
            errors = [line for line in text.splitlines() if line.startswith("error: ")]
            if len(errors) != 1 or ADVICE not in errors[0] or not re.search("'[^']*(runs|cache)[^']*'", errors[0]):
                faults.append(f"must say in one line which folder lacks room, said {text[-600:]!r}")
        if kind == "store" and code:
            faults.append("a full store must not end a run")
        halves = [path for path in (folder / "space").rglob(".*") if re.search(r"\.tmp$|\.[0-9a-f]{8}$", path.name)]
        return faults + [f"left behind: {path}" for path in halves]

    def _at_the_end(self, folder, kind):
        first, second = (next(each.glob("runs/full/*-seed*")) for each in (self.root / "whole", folder))
        faults = compare(first, second)
        if kind == "store":
            from mirror import differences
            from mlflow import MlflowClient

            from cl_mlm.tracking.mlflow_sender import sync

            sync(second)
            faults += differences(MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}"), second)
        return faults

    def _lay_out(self, folder, kind):
        """Makes the folder of a run: links lead to `space`, which is small, or to `roomy`."""
        for place in ("runs", "cache", "store"):
            inside = "space" if place in INSIDE[kind] else "roomy"
            (folder / inside / place).mkdir(parents=True, exist_ok=True)
            (folder / place).symlink_to(folder / inside / place)
        # Where there is no room for an empty store, the run tries to make it.
        if kind != "store" or shutil.disk_usage(folder / "store").free > (self.root / "empty.db").stat().st_size:
            shutil.copyfile(self.root / "empty.db", folder / "store" / "mlflow.db")
        config = {
            "experiment": "full",
            "stream": {"name": "files", "path": str(self.root / "data"), "labels_per_stage": 2, "order_seed": None},
            "model": {"name": str(self.root / "model"), "dropout": 0.1},
            "strategies": STRATEGIES,
            "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "threads": 1, "device": "cpu"},
            "checkpoint": {"every_steps": 2, "every_minutes": None},
            "tracking": {"uri": "sqlite:///store/mlflow.db", "log_every": 1},
            "output": "runs",
        }
        (folder / "config.yaml").write_text(json.dumps(config))

    def _run_command(self, folder):
        """Runs the command line in a forked process: `(exit code, what it said)`."""
        log = folder / "said.txt"
        log.unlink(missing_ok=True)
        pipe, child = in_child(lambda _pipe: self._command(folder), log)
        os.close(pipe)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text()

    def _command(self, folder):

        import torch

        from cl_mlm.cli.app import main
        from cl_mlm.experiment import session
        from cl_mlm.tracking.mlflow_sender import MlflowSender

        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # not those of pytest
        os.chdir(folder)
        os.environ["CL_MLM_CACHE"] = str(folder / "cache")
        torch.set_num_threads(1)
        session.SENDING_SECONDS = 3.0
        MlflowSender.poll_seconds = 0.05
        try:
            main(["run", "config.yaml"])
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)


def make_model(folder):
    """Writes a random BERT of a few kB, whose vocabulary is the bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=140,
        pad_token_id=0,
    )
    BertModel(settings).save_pretrained(folder)
    fast.save_pretrained(folder)
