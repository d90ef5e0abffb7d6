"""What options of fine-tuning modes ask of each other and of other settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_mlm.config.schema import FinetuningConfig, TrainingConfig


def mode_faults(finetuning: FinetuningConfig, training: TrainingConfig) -> list[str]:
    """Returns the faults among the options of a mode."""
    faults = []
    if finetuning.init == "text" and not finetuning.init_text:
        faults.append(f"finetuning.init_text: must be a text with init text, got {finetuning.init_text!r}")
    if finetuning.init_text is not None and finetuning.init != "text":
        text, init = finetuning.init_text, finetuning.init
        faults.append(f"finetuning.init_text: belongs to init text, got {text!r} with init {init}")
    if finetuning.mode == "prefix":
        if finetuning.hidden_size is not None and not finetuning.prefix_projection:
            faults.append(
                "finetuning.hidden_size: belongs to prefix_projection true in mode prefix, got "
                f"{finetuning.hidden_size} with prefix_projection false"
            )
        if training.gradient_checkpointing:
            faults.append(
                "training.gradient_checkpointing: must be false in mode prefix, whose keys and values it leaves out, "
                "got true"
            )
    return faults
