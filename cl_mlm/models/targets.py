"""Which parts of a pretrained body a mode of fine-tuning trains or adds to, by the names that its family gives them.

The names of peft's own tables have gaps and errors (IA3 on BERT also hits `attention.output.dense`), so every target is
found here and handed to peft by its full name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

LINEAR = (torch.nn.Linear, Conv1D)


@dataclass(frozen=True)
class Names:
    """Names of linear layers within a block, each a pattern for the end of a name.

    Attributes:
        attention: queries and values, which LoRA adapts (arXiv:2106.09685, section 4.2).
        keys_values: keys and values, which IA3 scales (arXiv:2205.05638, section 3.3).
        feedforward: the layer that reads the hidden units of the feed-forward part, whose input IA3 scales.
        output: the last layer of the attention, behind which a bottleneck stands (arXiv:1902.00751, figure 2).
    """

    attention: str
    keys_values: str
    feedforward: str
    output: str


_BERT_FEEDFORWARD = r"(?<!attention\.)output\.dense"
_BERT = Names("query|value", "key|value", _BERT_FEEDFORWARD, r"attention\.output\.dense")
_BART = Names("q_proj|v_proj", "k_proj|v_proj", "fc2", "out_proj")
_LLAMA = Names("q_proj|v_proj", "k_proj|v_proj", "down_proj", "o_proj")
_T5 = Names("q|v", "k|v", "wo", "o")
# GPT-2 and its like hold queries, keys and values in one layer, so that IA3 scales the queries, too.
FAMILIES: dict[str, Names] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "camembert", "ernie", "roformer"), _BERT),
    "distilbert": Names("q_lin|v_lin", "k_lin|v_lin", r"ffn\.lin2", "out_lin"),
    "albert": Names("query|value", "key|value", "ffn_output", r"attention\.dense"),
    "mpnet": Names(r"attn\.q|attn\.v", r"attn\.k|attn\.v", _BERT_FEEDFORWARD, r"attn\.o"),
    "deberta-v2": Names("query_proj|value_proj", "key_proj|value_proj", _BERT_FEEDFORWARD, r"attention\.output\.dense"),
    "modernbert": Names("Wqkv", "Wqkv", r"mlp\.Wo", r"attn\.Wo"),
    "gpt2": Names("c_attn", "c_attn", r"mlp\.c_proj", r"attn\.c_proj"),
    "gpt_neo": Names("q_proj|v_proj", "k_proj|v_proj", r"mlp\.c_proj", "out_proj"),
    "gpt_neox": Names("query_key_value", "query_key_value", "dense_4h_to_h", r"attention\.dense"),
    "opt": _BART,
    "phi3": Names("qkv_proj", "qkv_proj", "down_proj", "o_proj"),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "smollm3", "cohere"),
        _LLAMA,
    ),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), _T5),
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small"), _BART),
}


def body_parameters(model: PreTrainedModel, head: torch.nn.Module) -> set[int]:
    """Returns the `id`s of the pretrained body's parameters, those included that the head shares."""
    body: Any = model.base_model
    if body is not model:
        return {id(parameter) for parameter in body.parameters()}
    # No body apart: it is everything but what belongs to the head alone.
    input_embeddings: Any = model.get_input_embeddings()
    of_head_alone = {id(p) for p in head.parameters()} - {id(p) for p in input_embeddings.parameters()}
    return {id(parameter) for parameter in model.parameters()} - of_head_alone


def blocks_of(body: torch.nn.Module) -> dict[str, torch.nn.ModuleList]:
    """Returns the lists of blocks of a body by their names: one, or in an encoder-decoder one of each stack."""
    lists = {name: part for name, part in body.named_modules() if isinstance(part, torch.nn.ModuleList) and len(part)}
    outer = {n: part for n, part in lists.items() if not any(n.startswith(f"{other}.") for other in lists)}
    longest = max((len(part) for part in outer.values()), default=0)
    stacks = {name: part for name, part in outer.items() if _has_linear(part)}
    # Beside its blocks a body may list something short, such as projections of embeddings.
    return {name: part for name, part in stacks.items() if len(part) * 4 >= longest}


def lora_targets(model: PreTrainedModel, targets: str | Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """Returns the names, within the body, of the linear layers that LoRA adapts.

    Args:
        model: with its head.
        targets: `attention`, `all-linear`, or names of layers (the ends of their full names).
        layers: blocks, from 0; None: all.

    Raises:
        ConfigError: nothing has such a name, or the family is not known here.
    """
    linears = _linears(model, layers, "lora")
    if targets == "all-linear":
        return linears
    if targets == "attention":
        return _found(linears, _names_of(model, "attention", linears).attention)
    asked = [targets] if isinstance(targets, str) else list(targets)
    found = [name for name in linears if any(name == end or name.endswith(f".{end}") for end in asked)]
    missing = [end for end in asked if not any(name == end or name.endswith(f".{end}") for name in linears)]
    if missing or not found:
        known = _last_names(linears)
        hint = nearest(missing[0], known) if missing else ""
        raise ConfigError(
            f"finetuning.targets: must be attention, all-linear, or linear layers of the model's blocks "
            f"({', '.join(known)}), got {', '.join(map(repr, missing)) or targets}{hint}"
        )
    return found


def ia3_targets(model: PreTrainedModel, layers: Sequence[int] | None) -> tuple[list[str], list[str]]:
    """Returns the layers whose output IA3 scales (keys and values), and those whose input it does (feed-forward).

    Raises:
        ConfigError: the family is not known here.
    """
    linears = _linears(model, layers, "ia3")
    names = _names_of(model, "ia3", linears)
    return _found(linears, names.keys_values), _found(linears, names.feedforward)


def bottleneck_targets(model: PreTrainedModel, placement: str, layers: Sequence[int] | None) -> list[str]:
    """Returns the linear layers that a bottleneck stands behind: that of the feed-forward part, and the attention's.

    Args:
        model: with its head.
        placement: `houlsby`: both; `pfeiffer`: that of the feed-forward part.
        layers: blocks, from 0; None: all.

    Raises:
        ConfigError: the family is not known here.
    """
    linears = _linears(model, layers, "bottleneck")
    names = _names_of(model, "bottleneck", linears)
    return _found(linears, names.feedforward if placement == "pfeiffer" else f"{names.output}|{names.feedforward}")


def last_parameters(model: PreTrainedModel, number: int) -> set[int]:
    """Returns the `id`s of the parameters of the last blocks of each stack, and of what follows them in the body.

    What follows is the last norm, or a pooler. Embeddings stay out, wherever they stand.

    Raises:
        ConfigError: a stack has fewer blocks.
    """
    body = model.base_model
    chosen: set[int] = set()
    for name, blocks in blocks_of(body).items():
        if number > len(blocks):
            raise ConfigError(f"finetuning.last_blocks: must be at most {len(blocks)} for this model, got {number}")
        chosen |= {id(parameter) for block in list(blocks)[-number:] for parameter in block.parameters()}
        path = name.split(".")
        for depth in range(len(path)):
            parent = body.get_submodule(".".join(path[:depth])) if depth else body
            children = dict(parent.named_children())
            later = list(children)[list(children).index(path[depth]) + 1 :]
            followers = [key for key in later if "embed" not in key and not _holds_blocks(children[key])]
            chosen |= {id(parameter) for key in followers for parameter in children[key].parameters()}
    embeddings = model.get_input_embeddings()
    return chosen - ({id(parameter) for parameter in embeddings.parameters()} if embeddings is not None else set())


def norm_parameters(body: torch.nn.Module) -> set[int]:
    """Returns the `id`s of the parameters of all layers that normalise (LayerNorm, RMSNorm and their like)."""
    norms = [module for module in body.modules() if "norm" in type(module).__name__.lower()]
    return {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}


def bias_parameters(body: torch.nn.Module) -> set[int]:
    """Returns the `id`s of all biases."""
    return {id(p) for name, p in body.named_parameters() if name == "bias" or name.endswith(".bias")}


def _linears(model: PreTrainedModel, layers: Sequence[int] | None, mode: str) -> list[str]:
    """Returns the names of the linear layers in the blocks of the body."""
    body = model.base_model
    found = [
        f"{stack}.{number}.{name}"
        for stack, blocks in blocks_of(body).items()
        for number, block in enumerate(blocks)
        if layers is None or number in layers
        for name, module in block.named_modules()
        if isinstance(module, LINEAR)
    ]
    count = max((len(blocks) for blocks in blocks_of(body).values()), default=0)
    beyond = [number for number in layers or () if number >= count]
    if beyond or not found:
        raise ConfigError(
            f"finetuning.layers: must name blocks of the model from 0 to {count - 1} for mode {mode}, got {layers}"
        )
    return found


def _names_of(model: PreTrainedModel, what: str, linears: Sequence[str]) -> Names:
    names = FAMILIES.get(model.config.model_type)
    if names is None:
        way_out = "; finetuning.targets may name some of them" if what == "attention" else ""
        raise ConfigError(
            f"finetuning.mode: the layers of models of type {model.config.model_type} are not known here; their linear "
            f"layers are {', '.join(_last_names(linears))}{way_out}"
        )
    return names


def _found(names: Sequence[str], pattern: str) -> list[str]:
    ends = re.compile(rf"(?:^|\.)(?:{pattern})$")
    return [name for name in names if ends.search(name)]


def _last_names(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _has_linear(module: torch.nn.Module) -> bool:
    return any(isinstance(part, LINEAR) for part in module.modules())


def _holds_blocks(module: torch.nn.Module) -> bool:
    return any(isinstance(part, torch.nn.ModuleList) and len(part) for part in module.modules())
