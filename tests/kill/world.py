"""What is run: five arms of a small experiment on one and two threads, each in a folder with an MLflow store beside."""

import importlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from killing import Restless
from marks import Watch
from mirror import differences
from verdict import compare

import cl_mlm

# Two stages of two labels each; a label shows in the words of its rows.
WORDS = {
    "cold": "snow ice frost winter",
    "hot": "sun beach summer desert",
    "loud": "drum siren thunder shout",
    "quiet": "whisper library night hush",
}
THREADS = (1, 2)  # of torch on the CPU
NUM_WORDS = 30  # of a row: torch computes on several threads only where there are many numbers
COPIES = {"train": 8, "validation": 4, "test": 6}
IMPORTS = (
    "cl_mlm.cli.app",
    "cl_mlm.experiment.running",
    "cl_mlm.experiment.preparation",
    "datasets",
    "matplotlib.pyplot",
    "omegaconf",
    "mlflow.store.tracking.sqlalchemy_store",
    "pyarrow.parquet",
    "safetensors.torch",
    "transformers.models.bert.modeling_bert",
)


# Strategies and training settings; early stopping keeps a state of its own.
ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "naive": ({"naive": {}}, {}),
    "replay+ewc": ({"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}, {}),
    "lwf": ({"lwf": {"weight": 2.0}}, {"patience": 4}),
    "joint": ({"joint": {}}, {"steps": 48}),
    "restless": ([Restless()], {"patience": 5}),
}


class World:
    """The folders of one kill test below `root`: data, an empty store, `whole/<arm>/` and `trials/<number>-<arm>/`."""

    def __init__(self, root):
        self.root = root

    def prepare(self):
        """Writes the rows and makes the empty store."""
        self.write_rows()
        # In a process of its own: an engine of SQLAlchemy must not be there when the runs are forked.
        code = in_child(self._make_store, self.root / "log.txt")[1]
        if os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]):
            raise RuntimeError((self.root / "log.txt").read_text())

    def write_rows(self):
        """Writes the rows of every split."""
        (self.root / "data").mkdir(parents=True)
        for split, copies in COPIES.items():
            rows = [
                {"text": f"{f'{word} ' * NUM_WORDS}{i} {split}", "label": label}
                for i in range(copies)
                for label, words in WORDS.items()
                for word in [words.split()[i % 4]]
            ]
            lines = [json.dumps(row) + "\n" for row in rows]
            (self.root / "data" / f"{split}.jsonl").write_text("".join(lines))

    def _make_store(self, _pipe):
        from cl_mlm.tracking.mlflow_store import open_store

        open_store(f"sqlite:///{self.root / 'empty.db'}")

    def whole(self, name):
        """Returns the folder of an uninterrupted run, called `<arm>-<threads>`."""
        return self.root / "whole" / name

    def make(self, folder):
        """Makes the folder of a run, with an empty store."""
        folder.mkdir(parents=True)
        shutil.copyfile(self.root / "empty.db", folder / "mlflow.db")

    def begin(self, arm, threads, folder, cut):
        """Forks a process that runs an arm in `folder` or goes on there, and then judges it: `(pipe, process id)`."""
        return in_child(lambda pipe: self._run(arm, threads, folder, cut, pipe), folder / "log.txt")

    def _run(self, arm, threads, folder, cut, pipe):
        import torch
        from mlflow import MlflowClient

        from cl_mlm.tracking.mlflow_sender import MlflowSender, sync

        # Threads of OpenMP do not outlive a fork, but no process before this one has started any.
        torch.set_num_threads(threads)
        os.chdir(folder)  # relative addresses: the settings of all runs of an arm are then equal
        MlflowSender.poll_seconds = 0.05  # many small deliveries
        Watch(pipe, cut)
        strategies, training = ARMS[arm]
        result = cl_mlm.run(self._config({**training, "threads": threads}), strategies=strategies, progress=False)
        sync(result.folder)
        faults = [*result.warnings, *differences(MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), result.folder)]
        if torch.get_num_threads() != threads:
            faults.append(f"must run on {threads} threads, ran on {torch.get_num_threads()}")
        if folder.parent != self.root / "whole":
            faults += compare(self._run_folder(self.whole(f"{arm}-{threads}")), result.folder)
        Path("faults.json").write_text(json.dumps(faults))

    def _config(self, training):
        return {
            "experiment": "kill",
            "stream": {
                "name": "files",
                "path": str(self.root / "data"),
                "labels_per_stage": 2,
                "order_seed": None,
            },
            "model": {"name": "tiny", "dropout": 0.1},
            "training": {
                "epochs": 6,
                "batch_size": 4,
                "learning_rate": 1e-3,
                "device": "cpu",
                **training,
            },
            "checkpoint": {"every_steps": 5, "every_minutes": None},
            "tracking": {"uri": "sqlite:///mlflow.db", "log_every": 1},
            "output": "runs",
        }

    def _run_folder(self, folder):
        (found,) = (path for path in folder.glob("runs/kill/*") if path.is_dir())
        return found


def import_everything():
    """Imports what a run imports, so that a forked process need not."""
    import torch

    for name in IMPORTS:
        importlib.import_module(name)
    torch.set_num_threads(1)


def in_child(work, log):
    """Forks a process that does `work(pipe)` and ends, 0 where nothing was raised: `(end of the pipe to read, id)`."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(write)
        return read, child
    code = 1
    try:
        os.close(read)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        work(write)
        code = 0
    except BaseException:  # the process must not go on as its parent would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
