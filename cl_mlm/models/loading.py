"""Loads a model in the form that an objective needs; `model_settings` reads its config alone, without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from cl_mlm.config.schema import ModelConfig
from cl_mlm.config.undecodable import named_in_text
from cl_mlm.errors import ConfigError
from cl_mlm.models.adapter_files import adapter_alone, base_of, with_adapter
from cl_mlm.models.backbone import CLASS_HEADS, PlainBackbone, calm_transformers, find_head
from cl_mlm.models.file_safety import check_model, refuse_own_code
from cl_mlm.models.quantization import check_machine, quantization_config
from cl_mlm.models.soft_prompts import hide_prompt
from cl_mlm.models.tiny import TINY, tiny_config
from cl_mlm.models.tokenizers import cannot_load, from_folder_or_hub, load_tokenizer
from cl_mlm.models.virtual_tokens import form_of, virtual_tokens_of
from cl_mlm.randomness import seed_everything

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from cl_mlm.objective import Head, Objective


AUTO_CLASSES: dict[Head, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


def load_backbone(
    config: ModelConfig, labels: Sequence[str], seed: int, max_length: int, objective: Objective
) -> PlainBackbone:
    """Returns the model of `config` in the form that `objective` needs, with a fresh head for `labels`.

    Args:
        config: which model.
        labels: the labels that the model knows.
        seed: of the run; new weights are drawn from its address (`init`, 0).
        max_length: tokens of a sequence at most.
        objective: what the rows mean.

    Raises:
        ConfigError: there is no such model, or it has no form that the objective can use.
    """
    check_model(config)
    dtype: torch.dtype = getattr(torch, config.dtype)  # weights are made in it, so that no copy in fp32 takes memory
    seed_everything(seed, "init", 0)
    kind, settings = model_settings(config, labels, max_length, objective)
    auto = getattr(transformers, AUTO_CLASSES[kind])
    tokenizer = load_tokenizer(config)
    if config.name in TINY:
        return PlainBackbone(auto.from_config(settings, dtype=dtype), tokenizer, kind, config)

    def load(name: str) -> PreTrainedModel:
        seed_everything(seed, "init", 0)
        return pretrained(auto, name, settings, dtype, config, new_head=True)

    return PlainBackbone(from_folder_or_hub(config.name, load), tokenizer, kind, config)


def load_kept(folder: Path, dtype: str, objective: Objective) -> PlainBackbone:
    """Returns the model that a run has kept in `folder`, in the form that `objective` needs; draws nothing.

    Args:
        folder: a plain transformers folder.
        dtype: of the weights.
        objective: what the rows mean; told of the model.

    Raises:
        ConfigError: the folder holds no such model.
    """
    with named_in_text(folder) as named:
        return _load_kept(str(named), dtype, objective)


def _load_kept(name: str, dtype: str, objective: Objective) -> PlainBackbone:
    try:
        settings = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = _choose_head(name, settings, objective.heads)
        model = pretrained(getattr(transformers, AUTO_CLASSES[kind]), name, settings, getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error
    backbone = PlainBackbone(model, load_tokenizer(ModelConfig(name=name)), kind)
    objective.bind(model, kind)
    return backbone


def pretrained(
    auto: Any,
    name: str,
    settings: PretrainedConfig,
    dtype: torch.dtype | None = None,
    origin: ModelConfig | None = None,
    *,
    new_head: bool = False,
) -> PreTrainedModel:
    """Returns the model of a folder or of the hub; where a folder holds an adapter alone, its base with it.

    Args:
        auto: class of models, or one that finds it.
        name: the folder, or the hub's id.
        settings: the model's config.
        dtype: of the weights; None: as they are.
        origin: whose revision of the hub and whose quantisation are taken; None: the newest, and none.
        new_head: of a classifier with another number of classes the body is kept and the class head is drawn anew.

    Raises:
        RunFolderError: the base of an adapter is not the one that it was trained on.
        ConfigError: the base is quantised, which this machine cannot load.
    """
    adapter = adapter_alone(Path(name))
    base = replace(origin or ModelConfig(), name=name) if adapter is None else base_of(adapter)
    quantised = {}
    if base.quantization is not None:
        check_machine(base.quantization)
        with torch.device("meta"):
            empty = auto.from_config(settings) if hasattr(auto, "from_config") else auto(settings)
        quantised = {"quantization_config": quantization_config(base.quantization, empty, dtype or torch.float32)}
    with calm_transformers():
        model: PreTrainedModel = auto.from_pretrained(
            base.name,
            revision=base.revision,
            config=settings,
            dtype=dtype,
            ignore_mismatched_sizes=new_head or adapter is not None,  # an adapter brings its own head
            use_safetensors=True,
            trust_remote_code=False,
            **quantised,
        )
        if quantised:
            # It would go into the config of every folder that is written; `base.json` names the bits.
            vars(model.config).pop("quantization_config")
        if adapter is not None:
            model = with_adapter(model, adapter)
            if virtual_tokens_of(model) is not None:
                hide_prompt(model, model.get_submodule(find_head(model, form_of(model))))
        return model


def model_settings(
    config: ModelConfig, labels: Sequence[str], max_length: int | None, objective: Objective
) -> tuple[Head, PretrainedConfig]:
    """Returns the form and the config of the model that `load_backbone` builds from the same arguments.

    `max_length` None asks for the model as it is; a model called tiny is made to fit.

    Raises:
        ConfigError: there is no such config, or no form that the objective can use.
    """
    if config.name in TINY:
        settings = tiny_config(config.name, config.dropout, max_length)
    else:

        def read(name: str) -> PretrainedConfig:
            found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
                name, revision=config.revision, trust_remote_code=False
            )
            return found

        settings = from_folder_or_hub(config.name, read)
        refuse_own_code(config.name, settings.to_dict())
        _set_dropout(settings, config.dropout)
    kind = _choose_head(config.name, settings, objective.heads)
    if kind in CLASS_HEADS:
        settings.num_labels = objective.num_outputs(labels)
    settings.problem_type = objective.problem_type
    if config.attention is not None:
        settings._attn_implementation = config.attention
    return kind, settings


def _choose_head(name: str, settings: PretrainedConfig, heads: Sequence[Head]) -> Head:
    """Returns the first of `heads` that the model's family has.

    Raises:
        ConfigError: it has none.
    """
    family = settings.model_type
    is_encoder_decoder = bool(settings.is_encoder_decoder)
    has_masked_form = family in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_encoder = has_masked_form and not is_encoder_decoder
    # transformers gives encoders a causal form too, but nobody has pretrained it.
    is_decoder = not has_masked_form and not is_encoder_decoder
    has: dict[Head, bool] = {
        "sequence": family in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token": family in modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "span": family in modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "causal": is_decoder and family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "masked": is_encoder,
        "seq2seq": is_encoder_decoder and family in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    for head in heads:
        if has[head]:
            return head
    shape = "a decoder"
    if is_encoder_decoder:
        shape = "an encoder-decoder"
    elif is_encoder:
        shape = "an encoder"
    needed = " or ".join(AUTO_CLASSES[head] for head in heads)
    raise ConfigError(f"model.name: the stream's objective needs {needed}; {name!r} is {shape} ({family}) without it")


def _set_dropout(settings: PretrainedConfig, dropout: float | None) -> None:
    """Sets every dropout probability of a model's config, whatever its family calls them; None: leaves all as is."""
    if dropout is None:
        return
    for key, value in settings.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and (value is None or isinstance(value, float | int)):
            setattr(settings, key, dropout)
