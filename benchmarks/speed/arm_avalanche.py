"""Avalanche's Naive with its replay and EWC plugins; rows are tokenized once, before anything is timed."""

from __future__ import annotations

import io
import warnings
from typing import Any

from benchmarks.speed.arm_hand import linear
from benchmarks.speed.arm_trainer import rows_of_steps
from benchmarks.speed.stepper import Tick
from benchmarks.speed.workload import BATCH_SIZE, CLIP, LEARNING_RATE, STEPS, WEIGHT_DECAY, Workload


def make_benchmark(work: Workload) -> Any:
    """Returns the stream as an Avalanche benchmark whose rows are token ids in memory."""
    with warnings.catch_warnings():
        # Avalanche imports GEM's solver on the way; only GEM needs one.
        warnings.filterwarnings("ignore", "no QP solver found", UserWarning)
        from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
    made = {name: [_rows(work, i, name) for i in range(len(work.stream))] for name in ("train", "test")}
    return with_task_labels(with_classes_timeline(benchmark_from_datasets(**made)))


def _rows(work: Workload, stage_index: int, split: str) -> Any:
    from avalanche.benchmarks.utils import (
        ConstantSequence,
        DataAttribute,
        TaskAwareSupervisedClassificationDataset,
        TaskLabels,
    )

    from streams.avalanche import text_collate

    columns = work.encoded(stage_index, split)
    targets = columns["labels"]
    rows = [({"input_ids": ids}, target) for ids, target in zip(columns["input_ids"], targets, strict=True)]
    attributes = [DataAttribute(targets, "targets"), TaskLabels(ConstantSequence(0, len(rows)))]
    collate = text_collate(work.tokenizer)
    return TaskAwareSupervisedClassificationDataset([rows], data_attributes=attributes, collate_fn=collate)


class Avalanche:
    """Avalanche's Naive on the stream, with our settings of clipping and schedule.

    Args:
        fused: AdamW with one kernel for all parameters; False: as in Avalanche's examples.
        plugin: `replay`, `ewc` or none; with the state of the stages before the last.
        epochs: None: without end.
        schedule_steps: over which the learning rate falls to zero, anew in every experience.
    """

    def __init__(
        self,
        work: Workload,
        *,
        fused: bool = False,
        plugin: str | None = None,
        capacity: int = 500,
        epochs: int | None = None,
        schedule_steps: int = STEPS,
        tick: Tick | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(work.threads)
        self.work, self.benchmark = work, make_benchmark(work)
        from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
        from avalanche.logging import TextLogger
        from avalanche.training import Naive
        from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin

        makers = {"replay": lambda: ReplayPlugin(mem_size=capacity), "ewc": lambda: EWCPlugin(ewc_lambda=1.0)}
        self.plugin = None if plugin is None else makers[plugin]()
        model = classifier(work.new_model())
        settings = _settings(schedule_steps, None if tick is None else (tick, rows_of_steps(work.num_rows())))
        self.strategy = Naive(
            model=model,
            optimizer=torch.optim.AdamW(
                model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None
            ),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=BATCH_SIZE,
            train_epochs=epochs or STEPS,
            eval_mb_size=256,
            device=work.device,
            plugins=[*([self.plugin] if self.plugin else []), settings],
            evaluator=EvaluationPlugin(
                accuracy_metrics(experience=True), loss_metrics(epoch=True), loggers=[TextLogger(io.StringIO())]
            ),
        )
        if plugin is not None:
            self._go_through_earlier_stages(plugin)

    def _go_through_earlier_stages(self, plugin: str) -> None:
        """Gives the plugin what it would have kept of the stages before the last, without training any."""
        import torch
        from avalanche.training.utils import copy_params_dict

        plugged: Any = self.plugin
        for stage_index in range(self.work.last):
            if plugin == "replay":
                experience = self.benchmark.train_stream[stage_index]
                plugged.storage_policy.post_adapt(None, experience)
            else:
                plugged.saved_params[stage_index] = copy_params_dict(self.strategy.model)
                plugged.importances[stage_index] = copy_params_dict(self.strategy.model)
                for importance in plugged.importances[stage_index].values():
                    importance.data = torch.rand_like(importance.data) * 1e-6

    def train(self) -> int:
        """Trains the last stage, as the last; returns its rows times its epochs."""
        self.strategy.clock.train_exp_counter = self.work.last
        self.strategy.train(self.benchmark.train_stream[self.work.last])
        return self.work.num_rows() * self.strategy.train_epochs

    def train_and_evaluate(self) -> int:
        """Trains stage after stage and evaluates on the test stream after each; returns the rows trained on."""
        rows = 0
        for experience in self.benchmark.train_stream:
            self.strategy.train(experience)
            self.strategy.eval(self.benchmark.test_stream)
            rows += len(experience.dataset)
        return rows

    def evaluate(self, columns: list[int], batch_size: int) -> int:
        """Evaluates on the test rows of some stages; returns how many there are."""
        self.strategy.eval_mb_size = batch_size
        experiences = [self.benchmark.test_stream[j] for j in columns]
        self.strategy.eval(experiences)
        return sum(len(experience.dataset) for experience in experiences)


def classifier(encoder: Any) -> Any:
    """Returns a model that Avalanche can call: one object in, logits out."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, inputs: Any) -> Any:
            return self.encoder(**inputs).logits

    return Classifier()


def _settings(num_steps: int, ticking: tuple[Tick, Any] | None) -> Any:
    """Returns a plugin that clips, moves the learning rate, and tells the stopwatch of every step."""
    import torch
    from avalanche.training.plugins import SupervisedPlugin

    class Settings(SupervisedPlugin):
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            for group in strategy.optimizer.param_groups:
                group["lr"] = LEARNING_RATE
                group.pop("initial_lr", None)
            self.schedule = torch.optim.lr_scheduler.LambdaLR(strategy.optimizer, linear(num_steps))

        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), CLIP)

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            self.schedule.step()

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            if ticking is not None:
                tick, rows = ticking
                own = next(rows)
                tick(own, len(strategy.mb_y))

    return Settings()
