"""Modes of fine-tuning: which parameters of a model are trained, and what a mode adds to its body.

A mode trains part of the body (`bitfit`, `norm`, `last_k`) or adapters that peft puts into it (`lora`, `ia3`), or that
are our own (`bottleneck`). The adapters are injected, not wrapped around the model: its class, its head and the names
of all other modules stay. Heads over classes are always trained; the output embedding of a language model is part of
what is frozen.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from transformers.pytorch_utils import Conv1D

from cl_mlm.errors import ConfigError
from cl_mlm.models.bottleneck import insert_bottlenecks
from cl_mlm.models.prefixes import add_prefix
from cl_mlm.models.prompt_files import prompt_config
from cl_mlm.models.soft_prompts import add_soft_prompt, hide_prompt
from cl_mlm.models.targets import (
    bias_parameters,
    body_parameters,
    ia3_targets,
    last_parameters,
    lora_targets,
    norm_parameters,
)
from cl_mlm.models.virtual_tokens import LEARNED, NAME, virtual_tokens_of
from cl_mlm.randomness import seed_everything
from cl_mlm.strategy import ParameterSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    from cl_mlm.config.schema import Config, FinetuningConfig
    from cl_mlm.objective import Head

LEAVES_BASE: Final = ("lora", "ia3", *LEARNED)  # modes whose adapters can be left out: what remains is the base model
OWN_FORM: Final = ("bottleneck",)  # modes whose adapters no library of the ecosystem loads
ADAPTED: Final = ("lora", "ia3", *OWN_FORM, *LEARNED)  # modes that add adapters
UNDECAYED: Final = (".ia3_l.", f"{NAME}.")  # parts of the names of scales and of virtual tokens
QUANTISED: Final = ("is_loaded_in_4bit", "is_loaded_in_8bit")  # what transformers says of a model, and peft asks
ADAPTER: Final = "s000"  # peft calls an adapter by a name, which stands in the names of its parameters
WRITING: Final[tuple[Head, ...]] = ("causal", "masked", "seq2seq")  # their head is the output embedding


def set_trainable(
    model: PreTrainedModel, head: torch.nn.Module, kind: Head, finetuning: FinetuningConfig, seed: int
) -> None:
    """Leaves those parameters trainable that the mode trains, after adding its adapters where they are not there yet.

    Args:
        model: mutated; on the `meta` device, adapters have no values either.
        head: that gives the logits.
        kind: the form of the model.
        finetuning: mode and options.
        seed: of the run; adapters are drawn from its address (`init`, `adapter`).

    Raises:
        ConfigError: the mode has no meaning for this model, or nothing would be left to train.
    """
    mode = finetuning.mode
    if mode in ADAPTED:
        add_adapters(model, finetuning, seed)
        hide_prompt(model, head)
    body = body_parameters(model, head)
    chosen = _chosen(model, finetuning, body)
    trains_head = mode in ("full", "head") or kind not in WRITING
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen if id(parameter) in body else trains_head)
        if mode in ADAPTED and parameter.requires_grad:
            # Small updates would be lost in 16 bits: what is trained is fp32, in a body of whatever precision.
            parameter.data = parameter.data.float()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"finetuning.mode: head leaves nothing to train in {type(model).__name__}, whose output layer is "
            "its input embedding; got head"
        )


def is_quantised(model: torch.nn.Module) -> bool:
    """Says whether weights of the model are held in 4 or 8 bits."""
    return any(getattr(model, flag, False) for flag in QUANTISED)


def trains_in_fp32(config: Config) -> bool:
    """Says whether all that is trained is fp32: the weights are, or what a mode adds to them."""
    return config.model.dtype == "float32" or config.finetuning.mode in ADAPTED


def mode_settings(names: Iterable[str]) -> dict[str, ParameterSettings]:
    """Returns how the optimiser moves what a mode adds, by name, where that is not as other parameters.

    Scales, which begin at 1, and virtual tokens do not decay towards 0.
    """
    return {name: ParameterSettings(weight_decay=0.0) for name in names if any(part in name for part in UNDECAYED)}


def adapters(model: torch.nn.Module) -> dict[str, BaseTunerLayer]:
    """Returns the layers that carry an adapter of peft's, by name; a model without adapters does not import peft."""
    if not any(hasattr(module, "base_layer") for module in model.modules()):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model compute within the block what it would without peft's adapters in it, or its virtual tokens."""
    layers: list[Any] = list(adapters(model).values())
    tokens = virtual_tokens_of(model)
    if tokens is not None:
        tokens.is_off = True
    for layer in layers:
        # peft's `enable_adapters` also says which parameters are trained.
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        if tokens is not None:
            tokens.is_off = False


def plain_name(name: str) -> str | None:
    """Returns what a tensor is called in the model without adapters; None: it belongs to an adapter."""
    return None if f".{ADAPTER}" in name else name.replace(".base_layer.", ".")


@contextmanager
def merged_state(model: PreTrainedModel, *, merge: bool = True) -> Iterator[dict[str, torch.Tensor]]:
    """Gives the tensors of the plain model that computes the same: each adapter is added to its layer's weight.

    Within the block the model itself is merged, too. Afterwards it has the very tensors that it had before.

    Args:
        model: with or without adapters.
        merge: False gives the base, adapters left out.
    """
    layers: list[Any] = list(adapters(model).values()) if merge else []
    before = [(parameter, parameter.data) for layer in layers for parameter in layer.get_base_layer().parameters()]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)
        named = ((plain_name(name), tensor) for name, tensor in model.state_dict().items())
        yield {name: tensor for name, tensor in named if name is not None}
    finally:
        # peft's `unmerge` subtracts or divides, which does not give the same bits.
        for parameter, values in before:
            parameter.data = values
        for layer in layers:
            layer.merged_adapters.clear()


def peft_config(model: PreTrainedModel, finetuning: FinetuningConfig, prefix: str = "") -> PeftConfig:
    """Returns peft's description of the adapters of a model, each layer by its full name.

    Args:
        model: with its adapters.
        finetuning: mode and options.
        prefix: before the names within the body.
    """
    if finetuning.mode in LEARNED:
        return prompt_config(model, finetuning)
    body = model.base_model
    layers: dict[str, Any] = {f"{prefix}{name}": layer for name, layer in adapters(body).items()}
    scaled = [name for name, layer in layers.items() if getattr(layer, "is_feedforward", False)]
    return _described(finetuning, list(layers), scaled, is_transposed=_is_transposed(body))


def add_adapters(model: PreTrainedModel, finetuning: FinetuningConfig, seed: int) -> None:
    """Puts the adapters of a mode into the body; a body that has them already stays as it is.

    Where there is no body apart from the head, they are put into its blocks all the same.

    Raises:
        ConfigError: the mode has no meaning for this model.
    """
    if any(plain_name(name) is None for name, _ in model.base_model.named_parameters()):
        return
    seed_everything(seed, "init", "adapter")
    match finetuning.mode:
        case "bottleneck":
            insert_bottlenecks(model, finetuning, ADAPTER)
        case "prompt" | "p_tuning":
            add_soft_prompt(model, finetuning, ADAPTER, seed)
        case "prefix":
            add_prefix(model, finetuning, ADAPTER, seed)
        case _:
            _inject(model, finetuning)


def _inject(model: PreTrainedModel, finetuning: FinetuningConfig) -> None:
    """Puts adapters of peft's into the body."""
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    scaled: list[str] = []
    if finetuning.mode == "ia3":
        outputs, scaled = ia3_targets(model, finetuning.layers)
        names = [*outputs, *scaled]
    else:
        names = lora_targets(model, finetuning.targets or "attention", finetuning.layers)
    body: Any = model.base_model
    described = _described(finetuning, names, scaled, is_transposed=_is_transposed(body))
    for flag in QUANTISED:
        if getattr(model, flag, False):
            setattr(body, flag, True)
    inject_adapter_in_model(described, body, ADAPTER)
    # To fp32; before an optimiser holds them, for the parameters are made anew.
    cast_adapter_dtype(body, ADAPTER)


def _described(finetuning: FinetuningConfig, names: list[str], scaled: list[str], *, is_transposed: bool) -> PeftConfig:
    from peft import IA3Config, LoraConfig

    if finetuning.mode == "ia3":
        return IA3Config(target_modules=names, feedforward_modules=scaled, fan_in_fan_out=is_transposed)
    assert finetuning.rank is not None
    assert finetuning.alpha is not None
    return LoraConfig(
        r=finetuning.rank,
        lora_alpha=finetuning.alpha,  # type: ignore[arg-type]  # a whole number by peft's word alone
        lora_dropout=finetuning.dropout or 0.0,
        use_rslora=finetuning.scaling == "root",
        use_dora=bool(finetuning.dora),
        target_modules=names,
        fan_in_fan_out=is_transposed,
    )


def _is_transposed(body: torch.nn.Module) -> bool:
    """Says whether the linear layers of the blocks are GPT-2's Conv1D, which hold their weights transposed."""
    return any(isinstance(module, Conv1D) for module in body.modules())


def _chosen(model: PreTrainedModel, finetuning: FinetuningConfig, body: set[int]) -> set[int]:
    """Returns the `id`s of the body's parameters that the mode trains.

    Raises:
        ConfigError: there are none.
    """
    mode = finetuning.mode
    match mode:
        case "full":
            return body
        case "head":
            return set()
        case "last_k":
            return last_parameters(model, finetuning.last_blocks or 1)
        case "bitfit":
            chosen = bias_parameters(model.base_model) & body
        case "norm":
            chosen = norm_parameters(model.base_model) & body
        case _:
            return {id(p) for name, p in model.base_model.named_parameters() if plain_name(name) is None}
    if not chosen:
        what = {"bitfit": "biases", "norm": "norms"}[mode]
        raise ConfigError(
            f"finetuning.mode: {mode} trains the body's {what}, of which {type(model).__name__} has none; got {mode}"
        )
    return chosen
