"""This platform, on its real path: `train_stage` of a run made as `Experiment` makes it, with its real journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.stepper import Tick
from benchmarks.speed.workload import BATCH_SIZE, Workload


class Ours:
    """A run of this platform, at the beginning of one stage, with the stages before it behind it.

    Args:
        strategies: the config's section.
        sections: further sections of the config.
    """

    def __init__(
        self, work: Workload, strategies: Mapping[str, Any] | None = None, stage: int | None = None, **sections: Any
    ) -> None:
        from cl_mlm.config.loading import load_config
        from cl_mlm.experiment.composition import make_strategies
        from cl_mlm.experiment.preparation import Prepared, with_objects
        from cl_mlm.experiment.progress import Progress
        from cl_mlm.experiment.reporting import write_head
        from cl_mlm.experiment.running import Experiment
        from cl_mlm.run_folder import RunFolder
        from cl_mlm.tracking.journal import Journal
        from cl_mlm.training.hardware import resolve_hardware

        settings = work.settings(strategies=dict(strategies or {}), **sections)
        config = with_objects(resolve_hardware(load_config(settings, needs_stream=False)), work.stream, None)
        prepared = Prepared(config, work.stream, tuple(make_strategies(config)), self.objective(work), {})
        self.stage = work.last if stage is None else stage
        folder = RunFolder(work.new_folder("ours"))
        self.folder = folder.path
        self.journal = Journal(folder.journal)
        self.experiment = Experiment(prepared, folder, self.journal, Progress(prepared, folder.path, False))
        write_head(prepared, folder, self.journal, ())
        self.run, _ = self.experiment._restore()
        self.journal.stage_start(self.stage, self.experiment.stage_slugs[self.stage])
        self._go_through_earlier_stages()
        self.place()

    def objective(self, work: Workload) -> Any:
        """Returns the objective of the run: classes."""
        from cl_mlm.objectives.classification import Classification

        return Classification()

    @property
    def memory_rows(self) -> int:
        """Rows that replay adds to a step."""
        return BATCH_SIZE if any(strategy.name == "replay" for strategy in self.run.strategies) else 0

    def place(self, stage: int | None = None) -> None:
        """Puts the run at the beginning of a stage, the labels of all stages before it known."""
        at = self.stage if stage is None else stage
        self.run.place.stage_index = self.experiment.stage_index = at
        self.run.place.last_trained = at - 1
        self.run.tasks.count_labels(at, at - 1)

    def train(self, tick: Tick | None = None) -> int:
        """Trains the stage; returns its rows times its epochs."""
        from cl_mlm.training.loop import train_stage

        observer = Observer(self.experiment, tick, self.memory_rows)
        train_stage(self.run, observer)
        return observer.rows

    def use(self, **training: Any) -> None:
        """Changes settings of training, such as `epochs`."""
        config = self.run.config
        self.run.config = replace(config, training=replace(config.training, **training))

    def evaluate(self, columns: list[int]) -> int:
        """Scores the test rows of some stages; returns how many there are."""
        from cl_mlm.training.evaluation import evaluate

        return len(evaluate(self.run, "test", columns).ids)

    def _go_through_earlier_stages(self) -> None:
        """Gives replay a buffer of all earlier stages and EWC a quadratic over them, without training any."""
        import torch

        for strategy in self.run.strategies:
            if strategy.name == "replay":
                for stage in range(self.stage):
                    self.place(stage)
                    self.run.place.training_ids = self.run.data.ids(stage)
                    strategy.after_stage(self.run.view(strategy, "after_stage"), self.run.stage)
            if strategy.name == "ewc" and self.stage:
                self.place(self.stage - 1)
                self.grow()
                values = {name: p.detach().clone() for name, p in self.run.network.trainable().items()}
                strategy.consolidate({name: torch.rand_like(v) * 1e-3 for name, v in values.items()}, values)

    def grow(self) -> None:
        """Widens the head to the labels of the stage that the run is at."""
        place = self.run.place
        self.run.network.backbone.grow(self.run.tasks.at(place.stage_index).labels.seen, 0, place.stage_index)

    def close(self) -> None:
        """Closes the journal."""
        self.journal.__exit__(None, None, None)


class Observer:
    """The experiment as the loop's observer, which also tells the stopwatch of every step."""

    def __init__(self, experiment: Any, tick: Tick | None, memory_rows: int) -> None:
        self._experiment, self._tick, self._memory_rows = experiment, tick, memory_rows
        self.rows = self._own = 0

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Passes an epoch on."""
        self._experiment.epoch_done(epoch, values)

    def step_done(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """Passes a step on."""
        self._experiment.step_done(step, num_steps, epoch, rows, values)
        self._own = rows
        self.rows += rows

    def may_checkpoint(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Passes the last call of a step on."""
        self._experiment.may_checkpoint(step, state)
        if self._tick is not None:
            self._tick(self._own, self._own + self._memory_rows)


class Sender:
    """MLflow's thread beside an arm.

    Args:
        uri: of the store.
    """

    def __init__(self, ours: Ours, uri: str) -> None:
        from cl_mlm.tracking.mlflow_sender import MlflowSender

        self._folder: Path = ours.folder
        self._journal = ours.journal.path
        self._sender = MlflowSender(ours.folder, self._journal, uri)
        self._sender.start()

    def cpu(self) -> float:
        """Returns the processor seconds that the thread has taken."""
        thread = self._sender._thread.ident
        assert thread is not None
        return time.clock_gettime(time.pthread_getcpuclockid(thread))

    def drain(self) -> None:
        """Waits until everything written so far is sent, so that a block bears what its own lines cost."""
        from cl_mlm.tracking.mlflow_delivery import Link

        while True:
            link = Link.load(self._folder)
            if link is not None and link.offset >= self._journal.stat().st_size:
                return
            time.sleep(0.05)
