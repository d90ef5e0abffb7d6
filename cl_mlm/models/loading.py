"""Loads a model in the form that an objective needs; reads its config alone where that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import CLASS_HEADS, PlainBackbone, calm_transformers
from cl_mlm.models.file_safety import check_model, refuse_own_code
from cl_mlm.models.tiny import TINY, tiny_config
from cl_mlm.models.tokenizers import cannot_load, load_tokenizer
from cl_mlm.objective import Head, Objective
from cl_mlm.randomness import seed_everything

if TYPE_CHECKING:
    from transformers import PretrainedConfig


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
        labels: that the model knows.
        seed: of what is drawn.
        max_length: tokens of a sequence.
        objective: what the rows mean.

    Raises:
        ConfigError: there is no such model, or it has no form that the objective can use.
    """
    import torch
    import transformers

    check_model(config)
    dtype: torch.dtype = getattr(torch, config.dtype)  # the weights are made in it, never in another one first
    seed_everything(seed, "init", 0)
    kind, settings = model_settings(config, labels, max_length, objective)
    auto = getattr(transformers, AUTO_CLASSES[kind])
    tokenizer = load_tokenizer(config)
    if config.name in TINY:
        return PlainBackbone(auto.from_config(settings, dtype=dtype), tokenizer, kind)
    try:
        seed_everything(seed, "init", 0)
        # A classifier of another number of classes keeps its body; its class head is drawn anew.
        with calm_transformers():
            model = auto.from_pretrained(
                config.name,
                revision=config.revision,
                config=settings,
                dtype=dtype,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError) as error:
        raise cannot_load(config.name, error) from error
    return PlainBackbone(model, tokenizer, kind)


def model_settings(
    config: ModelConfig, labels: Sequence[str], max_length: int, objective: Objective
) -> tuple[Head, PretrainedConfig]:
    """Returns the form and the config of the model that `load_backbone` builds of the same arguments.

    Raises:
        ConfigError: there is no such config, or no form that the objective can use.
    """
    from transformers import AutoConfig

    if config.name in TINY:
        settings = tiny_config(config.name, config.dropout, max_length)
    else:
        try:
            settings = AutoConfig.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise cannot_load(config.name, error) from error
        refuse_own_code(config.name, settings.to_dict())
        _set_dropout(settings, config.dropout)
    kind = _choose_head(config.name, settings, objective.heads)
    if kind in CLASS_HEADS:
        settings.num_labels = objective.num_outputs(labels)
    settings.problem_type = objective.problem_type
    return kind, settings


def _choose_head(name: str, settings: PretrainedConfig, heads: Sequence[Head]) -> Head:
    """Returns the first of `heads` that the model's family has.

    Raises:
        ConfigError: it has none.
    """
    from transformers.models.auto import modeling_auto

    own = settings.model_type
    has_encoder = own in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    pair = bool(settings.is_encoder_decoder)
    # Encoders have causal forms in transformers too, which nobody has pretrained.
    found: dict[Head, bool] = {
        "sequence": own in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token": own in modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "span": own in modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "causal": own in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not pair and not has_encoder,
        "masked": has_encoder and not pair,
        "seq2seq": pair and own in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    for head in heads:
        if found[head]:
            return head
    family = "an encoder-decoder" if pair else "an encoder" if has_encoder else "a decoder"
    needed = " or ".join(AUTO_CLASSES[head] for head in heads)
    raise ConfigError(f"model.name: the stream's objective needs {needed}; {name!r} is {family} ({own}) without it")


def _set_dropout(settings: PretrainedConfig, dropout: float | None) -> None:
    if dropout is None:
        return
    for key, value in settings.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and (value is None or isinstance(value, float | int)):
            setattr(settings, key, dropout)
