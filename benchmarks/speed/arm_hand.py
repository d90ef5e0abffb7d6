"""The limit: a loop written by hand for this one job, over the very batches that this platform trains on."""

from __future__ import annotations

from itertools import count
from typing import Any

from benchmarks.speed.stepper import Tick
from benchmarks.speed.workload import BATCH_SIZE, CLIP, LEARNING_RATE, STEPS, WARMUP, WEIGHT_DECAY, Workload


def train(work: Workload, tick: Tick) -> None:
    """Trains for ever; token ids wait in lists and are padded batch by batch."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from cl_mlm.tokens.batching import training_batches

    torch.set_num_threads(work.threads)
    columns = work.encoded(work.last)
    tokens, labels = columns["input_ids"], torch.tensor(columns["labels"])
    lengths = np.fromiter(map(len, tokens), dtype=np.int32)
    model = work.new_model().train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(groups(parameters), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, linear(STEPS))
    padding, is_bf16 = model.config.pad_token_id, work.precision == "bf16"
    for epoch in count():
        for positions in training_batches(lengths, BATCH_SIZE, 0, work.last, epoch):
            longest = int(lengths[positions].max())
            ids = torch.full((len(positions), longest), padding)
            for row, position in enumerate(positions.tolist()):
                ids[row, : lengths[position]] = torch.tensor(tokens[position])
            mask = torch.from_numpy(np.arange(longest)[None] < lengths[positions][:, None]).long()
            ids, mask, target = ids.to(work.device), mask.to(work.device), labels[positions].to(work.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=is_bf16):
                logits = model(input_ids=ids, attention_mask=mask).logits
            cross_entropy(logits.float(), target).backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tick(len(positions))


def groups(parameters: list[Any]) -> list[dict[str, Any]]:
    """Returns parameters that decay (matrices) and those that do not."""
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def linear(num_steps: int) -> Any:
    """Returns the factor on the learning rate: up within the warm-up, then down to zero."""
    warm = round(WARMUP * num_steps)
    return lambda step: (step + 1) / (warm + 1) if step < warm else max(0.0, (num_steps - step) / (num_steps - warm))
