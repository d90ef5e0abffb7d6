"""The folder of an adapter: what peft loads beside the base model, and what a run goes on from.

- `adapter_config.json`: peft's description: layers by name, and the heads that are replaced
- `finetuning.json`: mode and options, which `with_adapter` reads: where no library knows the adapter in place of that
  description, and beside it where there are virtual tokens, which do not merge
- `adapter_model.safetensors`: every trained tensor, by the names that `PeftModel` gives, and virtual tokens as computed
- `config.json`: of the model that the adapter belongs to: its labels
- `base.json`: which base: name, revision, digest of its files
- `base/`: the base itself, where nothing else keeps it (the models that are built here)
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file

from cl_mlm.config.schema import FinetuningConfig, ModelConfig, mode_options
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.models.finetuning import (
    ADAPTER,
    OWN_FORM,
    add_adapters,
    is_quantised,
    merged_state,
    peft_config,
    plain_name,
)
from cl_mlm.models.prompt_files import READ, START, computed_tokens, named_tokens, peft_reads
from cl_mlm.models.stored_files import model_digest
from cl_mlm.models.tiny import TINY
from cl_mlm.models.virtual_tokens import LEARNED, NAME, virtual_tokens_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

FOLDER: Final = "adapter"  # within the folder of a model
BASE: Final = "base"
TENSORS: Final = "adapter_model.safetensors"
OPTIONS: Final = "finetuning.json"
PREFIX: Final = "base_model.model."  # of every name in a `PeftModel`


def write_adapter(folder: Path, model: PreTrainedModel, finetuning: FinetuningConfig, origin: ModelConfig) -> None:
    """Writes the folder of a model's adapter and of its trained head.

    Args:
        folder: is made.
        model: with its adapter.
        finetuning: mode and options.
        origin: which base.
    """
    folder.mkdir(parents=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if finetuning.mode in (*OWN_FORM, *LEARNED):
        options = {option: getattr(finetuning, option) for option in ("mode", *mode_options())}
        told = {option: value for option, value in options.items() if value is not None}
        (folder / OPTIONS).write_text(json.dumps(told, indent=1) + "\n")
    if finetuning.mode not in OWN_FORM and peft_reads(model):
        _describe_to_peft(folder, model, finetuning, origin, list(trained))
    names, tokens = _file_names(model), virtual_tokens_of(model)
    tensors: dict[str, torch.Tensor] = {names[name]: parameter for name, parameter in trained.items()}
    tensors |= {} if tokens is None else computed_tokens(tokens)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    reference = {"name": origin.name, "revision": origin.revision, "digest": model_digest(origin)}
    if origin.quantization is not None:
        reference["quantization"] = origin.quantization
    (folder / "base.json").write_text(json.dumps(reference, indent=1) + "\n")
    if origin.name in TINY:
        with merged_state(model, merge=False) as state:
            model.save_pretrained(folder / BASE, state_dict=state)


def _describe_to_peft(
    folder: Path, model: PreTrainedModel, finetuning: FinetuningConfig, origin: ModelConfig, trained: list[str]
) -> None:
    """Writes peft's description of an adapter; `trained` are the names of all parameters in its file."""
    body: Any = model.base_model
    prefix = "" if body is model else f"{model.base_model_prefix}."
    described: Any = peft_config(model, finetuning, prefix)
    heads = dict.fromkeys(name.partition(".")[0] for name in trained if f".{ADAPTER}" not in name)
    described.modules_to_save = list(heads) or None
    described.inference_mode = True
    described.base_model_name_or_path = BASE if origin.name in TINY else origin.name
    described.revision = origin.revision
    described.save_pretrained(str(folder))


def read_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Puts the tensors of an adapter's folder into a model with the same adapter; mutates it.

    Raises:
        RunFolderError: the folder holds other tensors than the model trains.
    """
    names = _file_names(model)
    _put_in(folder, {names[name]: p for name, p in model.named_parameters() if p.requires_grad})


def _put_in(folder: Path, trained: Mapping[str, torch.nn.Parameter]) -> None:
    kept = load_file(folder / TENSORS)
    if f"{NAME}.weight" in kept:  # what is computed of it is there for peft
        del kept[READ]
    if kept.keys() != trained.keys():
        other = sorted(kept.keys() ^ trained.keys())
        raise RunFolderError(f"{folder / TENSORS}: must hold the tensors that are trained, differs in {other[0]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(kept[name])


def adapter_alone(folder: Path) -> Path | None:
    """Returns the adapter's folder within that of a model whose own weights are not there; None: they are."""
    adapter = folder / FOLDER
    return adapter if (adapter / TENSORS).is_file() and not any(folder.glob("*.safetensors")) else None


def refuse_unmerged(folder: Path) -> None:
    """Refuses, for a run to begin from, the folder of a model with an adapter that does not merge into its weights.

    Raises:
        ConfigError: naming mode and base.
    """
    adapter = adapter_alone(folder)
    if adapter is None:
        return
    base = json.loads((adapter / "base.json").read_text(encoding="utf-8"))
    if (adapter / OPTIONS).is_file():
        mode = json.loads((adapter / OPTIONS).read_text(encoding="utf-8"))["mode"]
        added = f"its mode {mode} has added to {base['name']}"
    elif "quantization" in base:
        added = f"has been added to {base['name']} in {base['quantization']}"
    else:
        return
    raise ConfigError(
        f"model.name: must be a model without adapters, got {str(folder)!r}: what {added} does not merge into the "
        "weights"
    )


def base_of(adapter: Path) -> ModelConfig:
    """Returns which base an adapter stands on: its name, its revision, and in what it is quantised.

    Raises:
        RunFolderError: what has that name now are other files.
    """
    if (adapter / BASE).is_dir():
        return ModelConfig(name=str(adapter / BASE))
    kept = json.loads((adapter / "base.json").read_text(encoding="utf-8"))
    origin = ModelConfig(name=kept["name"], revision=kept["revision"], quantization=kept.get("quantization"))
    now = model_digest(origin)
    if None not in (now, kept["digest"]) and now != kept["digest"]:
        raise RunFolderError(
            f"{adapter}: belongs to the model {kept['name']!r} with files of digest {kept['digest']}, now {now}"
        )
    return origin


def with_adapter(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Returns a base that computes what it does with the adapter of a folder, merged into its weights where it merges.

    Raises:
        RunFolderError: the folder holds other tensors than the model has.
    """
    if (adapter / OPTIONS).is_file():
        finetuning = FinetuningConfig(**json.loads((adapter / OPTIONS).read_text(encoding="utf-8")))
        add_adapters(base, finetuning, 0)
        kept = load_file(adapter / TENSORS)
        named = _file_names(base)
        held = [name for name, key in named.items() if key in kept or plain_name(name) is None]
        _put_in(adapter, {named[name]: base.get_parameter(name) for name in held})
        return base
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks models for an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        loaded: Any = PeftModel.from_pretrained(base, str(adapter))
        # Quantised weights would be rounded once more: there the adapter stays beside them.
        model: PreTrainedModel = loaded.get_base_model() if is_quantised(base) else loaded.merge_and_unload()
    return model


def _file_names(model: PreTrainedModel) -> dict[str, str]:
    """Returns what the file of a model's adapter calls each of the model's parameters."""
    tokens = virtual_tokens_of(model)
    if tokens is None:
        return {name: PREFIX + _bare(name) for name, _ in model.named_parameters()}
    own = {id(parameter): name for name, parameter in named_tokens(tokens).items()}
    return {name: own.get(id(parameter), START + name) for name, parameter in model.named_parameters()}


def _bare(name: str) -> str:
    """Returns a parameter's name without that of the adapter, which peft adds when it loads a folder."""
    return name.replace(f".{ADAPTER}", "")
