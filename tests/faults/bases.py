"""The runs whose copies are damaged: three strategies, finished and killed, with few and with all stages kept."""

import json
import os
import shutil
import signal
import sqlite3
import sys
from dataclasses import dataclass, replace

import yaml
from killing import signalled_at
from world import in_child

ARMS = {
    "naive": ({"naive": {}}, {}),
    "replay+ewc": ({"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}, {}),
    "lwf": ({"lwf": {"weight": 2.0}}, {"patience": 2}),
}
# The steps after which a run is killed: in the first stage, and in the second, each with a checkpoint behind it.
STATES = {"finished": None, "killed in stage 0": 7, "killed in stage 1": 20}
STEPS_A_STAGE = 12


@dataclass(frozen=True)
class Base:
    """One run that is damaged.

    Attributes:
        arm: a key of `ARMS`.
        keep: `checkpoint.keep_stages`.
        state: a key of `STATES`.
        seed: of the run.
    """

    arm: str
    keep: str
    state: str
    seed: int = 0

    @property
    def name(self):
        """The name of the folder that holds config, store and output."""
        return f"{self.arm}-{self.keep}-{self.state.replace(' ', '-')}-{self.seed}"

    @property
    def twin(self):
        """The same run with another seed."""
        return replace(self, seed=self.seed + 1)

    @property
    def whole(self):
        """The same run, finished."""
        return replace(self, state="finished")

    @property
    def family(self):
        """The runs that a trial needs: this one, one to swap files with, and what it must end as."""
        return (self, self.twin, self.whole)


ALL = tuple(Base(arm, keep, state) for arm in ARMS for keep in ("last", "all") for state in STATES)


class Bases:
    """Folders below `root/bases`, each made when it is first needed.

    Args:
        world: of the kill test: rows and an empty store.
    """

    def __init__(self, world):
        self._world = world

    def home(self, base):
        """Returns the folder in which the commands of a base are given."""
        return self._world.root / "bases" / base.name

    def make(self, base):
        """Makes a base where it is not there yet."""
        home = self.home(base)
        if home.is_dir():
            return
        self._world.make(home)
        (home / "config.yaml").write_text(yaml.safe_dump(self._config(base)))
        code, text = command(home, ["run", "config.yaml"], kill_at=STATES[base.state])
        if code != (0 if base.state == "finished" else -signal.SIGKILL):
            raise RuntimeError(f"{base.name}: ended with {code}: {text}")
        code, text = verify(home, run_folder(home))
        if code:
            raise RuntimeError(f"{base.name}: verify finds fault with an undamaged run: {text}")

    def copy(self, base, home):
        """Copies a base to `home`, its store included, which knows its own place."""
        here = self.home(base)
        shutil.copytree(here, home)
        with sqlite3.connect(home / "mlflow.db") as store:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(here), str(home)))
        store.close()

    def _config(self, base):
        strategies, training = ARMS[base.arm]
        return {
            "experiment": "faults",
            "seed": base.seed,
            "stream": {
                "name": "files",
                "path": str(self._world.root / "data"),
                "labels_per_stage": 2,
                "order_seed": None,
            },
            "model": {"name": "tiny", "dropout": 0.1},
            "strategies": strategies,
            "training": {
                "epochs": 3,
                "batch_size": 4,
                "learning_rate": 1e-3,
                "threads": 1,
                "device": "cpu",
                **training,
            },
            "checkpoint": {"every_steps": 3, "every_minutes": None, "keep_stages": base.keep},
            "tracking": {"uri": "sqlite:///mlflow.db", "log_every": 1},
            "output": "runs",
        }


def run_folder(home):
    """Returns the one run's folder below the place where commands are given."""
    (found,) = (path for path in (home / "runs" / "faults").iterdir() if path.is_dir())
    return found


def command(home, arguments, kill_at=None):
    """Gives a command of the command line in `home`, in a forked process: `(exit code, what it said)`.

    Args:
        home: the working folder.
        arguments: of the command line.
        kill_at: the optimiser step after which the process is killed; None: it is not.
    """
    log = home / "said.txt"
    log.unlink(missing_ok=True)
    pipe, child = in_child(lambda pipe: _command(home, arguments, kill_at, pipe), log)
    with os.fdopen(pipe, "rb") as said:
        code = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return (json.loads(code) if code else status), text


def verify(home, folder):
    """Gives `cl-mlm verify` the run: `(exit code, what it said)`."""
    return command(home, ["verify", folder.relative_to(home).as_posix()])


def _command(home, arguments, kill_at, pipe):
    import torch

    from cl_mlm.cli.app import main
    from cl_mlm.tracking.mlflow_sender import MlflowSender

    # What pytest has put in their places would not write to the log.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    torch.set_num_threads(1)
    os.chdir(home)
    MlflowSender.poll_seconds = 0.05
    code = 0
    try:
        if kill_at is None:
            main(arguments)
        else:
            with signalled_at(kill_at):
                main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(pipe, json.dumps(code).encode())
