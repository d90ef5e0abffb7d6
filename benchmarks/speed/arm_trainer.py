"""Transformers' `Trainer` with its default settings, without logging and saving."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from benchmarks.speed.stepper import Tick
from benchmarks.speed.workload import BATCH_SIZE, CLIP, LEARNING_RATE, STEPS, WARMUP, WEIGHT_DECAY, Workload


def make_trainer(work: Workload, callbacks: list[Any] | None = None, **arguments: Any) -> Any:
    """Returns a Trainer over the stage that is trained."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    torch.set_num_threads(work.threads)
    settings = TrainingArguments(
        output_dir=str(work.new_folder("trainer")),
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,  # below 1: a fraction of all steps
        max_grad_norm=CLIP,
        max_steps=STEPS,
        use_cpu=work.device == "cpu",
        bf16=work.precision == "bf16",
        dataloader_pin_memory=work.device != "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    return Trainer(
        work.new_model(),
        settings,
        data_collator=DataCollatorWithPadding(work.tokenizer),
        train_dataset=Dataset.from_dict(work.encoded(work.last)),
        processing_class=work.tokenizer,
        callbacks=callbacks,
    )


def train(work: Workload, tick: Tick, strategy: str = "random") -> None:
    """Trains for ever, on batches of any rows, or of rows of like length (`group_by_length`)."""
    from transformers import TrainerCallback

    rows = rows_of_steps(work.num_rows())

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tick(next(rows))

    make_trainer(work, [Ticking()], train_sampling_strategy=strategy).train()


def rows_of_steps(num_rows: int) -> Any:
    """Returns, without end, the rows of one step after another: an epoch's last batch is the rest."""
    full, rest = divmod(num_rows, BATCH_SIZE)
    sizes = [BATCH_SIZE] * full
    return cycle([*sizes, rest] if rest else sizes)


class Predictor:
    """`Trainer.predict`, test set by test set."""

    def __init__(self, work: Workload) -> None:
        from datasets import Dataset

        self._trainer = make_trainer(work)
        self._sets = [Dataset.from_dict(work.encoded(stage, "test")) for stage in range(len(work.stream))]

    def evaluate(self, columns: list[int], batch_size: int) -> int:
        """Predicts the test rows of some stages; returns how many there are."""
        self._trainer.args.per_device_eval_batch_size = batch_size
        return sum(len(self._trainer.predict(self._sets[j]).predictions) for j in columns)
