"""Adapters, and what the base under them is: bits, precision, attention."""

from tests.odd_inputs.case import Case, data

CHECK = ("check", "config.yaml")
BF16 = ("model.dtype=bfloat16", "training.precision=bf16")


def asked(given: str, says: str, *overrides: str, code: int = 2) -> Case:
    """Returns a case of the common config with these settings."""
    return Case(given=given, says=says, code=code, command=(*CHECK, *overrides), files=data())


CASES = [
    asked(
        "`finetuning: {mode: bottleneck, width: 0}`",
        "finetuning.width: must be at least 1, got 0",
        "finetuning.mode=bottleneck",
        "finetuning.width=0",
    ),
    asked(
        "`mode: bottleneck` with `export: merged`",
        "finetuning.export: must be adapter in mode bottleneck, whose adapters cannot be merged",
        "finetuning.mode=bottleneck",
        "finetuning.export=merged",
    ),
    asked(
        "`mode: bottleneck` in block 7 of a model with two",
        "finetuning.layers: must name blocks of the model from 0 to 1 for mode bottleneck, got [7]",
        "finetuning.mode=bottleneck",
        "finetuning.layers=[7]",
    ),
    asked(
        "`placement` of bottlenecks with `mode: ia3`",
        "finetuning.placement: belongs to mode bottleneck, got 'pfeiffer' with mode ia3",
        "finetuning.mode=ia3",
        "finetuning.placement=pfeiffer",
    ),
    asked(
        "`mode: bottleneck` with a bottleneck as wide as the model",
        "good to run",
        "finetuning.mode=bottleneck",
        "finetuning.width=128",
        code=0,
    ),
    asked(
        "ewc on weights in bfloat16 that are trained",
        "model.dtype must be float32, or finetuning.mode one with adapters",
        *BF16,
        "strategies=[ewc]",
    ),
    asked(
        "ewc on LoRA in fp32, in a body in bfloat16",
        "good to run",
        *BF16,
        "strategies=[ewc]",
        "finetuning.mode=lora",
        code=0,
    ),
    asked(
        "`model.attention: flash`",
        "model.attention: must be one of eager, sdpa, flash_attention_2 or null, got 'flash'",
        "model.attention=flash",
    ),
    asked(
        "`model.attention: flash_attention_2` on a CPU",
        "model.attention: must be sdpa or eager on cpu, got flash_attention_2, which needs cuda",
        "model.attention=flash_attention_2",
        "training.device=cpu",
    ),
    asked(
        "`model.quantization: nf4` with full fine-tuning",
        "where model.quantization is nf4, whose weights cannot be trained, got full",
        "model.quantization=nf4",
    ),
    asked(
        "LoRA on `model.quantization: int8` on a CPU",
        "model.quantization: must be null where training.device is cpu, not cuda; got int8",
        "model.quantization=int8",
        "finetuning.mode=lora",
        "training.device=cpu",
    ),
]
