"""A frozen base in 4 or 8 bits, by bitsandbytes.

Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314; LLM.int8(), arXiv:2208.07339.
`nf4` and `int8` hold the linear layers of the body; embeddings, norms and all heads stay in `model.dtype`. What is
trained stands beside them, in fp32.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig

from cl_mlm.errors import ConfigError
from cl_mlm.models.finetuning import ADAPTED
from cl_mlm.models.tiny import TINY

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cl_mlm.config.schema import Config

EXTRA = "pip install 'cl-mlm[quantized]'"


def check_quantization(config: Config) -> None:
    """Refuses a quantised base that this run or this machine cannot have.

    Args:
        config: with its device filled in.

    Raises:
        ConfigError: every reason.
    """
    chosen, finetuning, device = config.model.quantization, config.finetuning, str(config.training.device)
    if chosen is None:
        return
    problems = []
    if finetuning.mode not in ADAPTED:
        problems.append(
            f"finetuning.mode: must be one with adapters ({', '.join(ADAPTED)}) where model.quantization is {chosen}, "
            f"whose weights cannot be trained, got {finetuning.mode}"
        )
    if finetuning.dora:
        problems.append(
            f"finetuning.dora: must be false where model.quantization is {chosen}, of which the norms of weights are "
            "not read back as they were, got true"
        )
    if finetuning.export == "merged":
        problems.append(
            f"finetuning.export: must be adapter where model.quantization is {chosen}, into whose weights an adapter "
            "cannot be merged without loss, got merged"
        )
    if config.model.name in TINY:
        problems.append(f"model.quantization: must be null for a model that is built here, got {chosen}")
    if torch.device(device).type != "cuda":
        problems.append(f"model.quantization: must be null where training.device is {device}, not cuda; got {chosen}")
    if find_spec("bitsandbytes") is None:
        problems.append(f"model.quantization: {chosen} needs bitsandbytes, which is not installed: {EXTRA}")
    if problems:
        raise ConfigError(problems)


def check_machine(quantization: str) -> None:
    """Refuses to load a quantised base where there is no CUDA or no bitsandbytes.

    Raises:
        ConfigError: naming what is missing.
    """
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise ConfigError(f"model.quantization: {quantization} needs a CUDA device and bitsandbytes ({EXTRA})")


def quantization_config(quantization: str, model: PreTrainedModel, dtype: torch.dtype) -> Any:
    """Returns what transformers is told: which layers are quantised, and in what they compute.

    Args:
        quantization: `nf4` or `int8`.
        model: the model without weights.
        dtype: of the other weights, and of the products with dequantised ones.
    """
    body, output = model.base_model, model.get_output_embeddings()
    kept = [name for name, module in model.named_modules() if module is output]
    if body is not model:
        kept = list(dict.fromkeys([*kept, *(name for name, part in model.named_children() if part is not body)]))
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
