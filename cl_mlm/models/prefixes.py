"""Prefix tuning: trained keys and values before those of every text, in each layer of a decoder.

Li and Liang (2021), Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv:2101.00190. With `projection`
they are computed by an MLP of two layers, as in the paper, else trained themselves. Differs from the paper: no word's
activations are the start, but small random numbers, which hardly change at first what the model computes; of an
encoder-decoder only the decoder gets a prefix, as in peft.

Axes: I inputs, P virtual tokens, T tokens, L layers, N heads of keys and values, D numbers of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.models.positions import position_limits
from cl_mlm.models.soft_prompts import LEAST_TEXT
from cl_mlm.models.targets import FAMILIES
from cl_mlm.models.virtual_tokens import NAME, VirtualTokens, goes_on, is_encoder
from cl_mlm.randomness import seed_everything, torch_generator

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from cl_mlm.config.schema import FinetuningConfig

DEVIATION = 0.02  # of the first keys and values


class Prefix(VirtualTokens):
    """Trained keys and values, (P, 2LND), in the order of peft: layer by layer, keys before values."""

    def __init__(self, weight: torch.Tensor, reader: torch.nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__(weight, reader)
        self.shape = shape

    def fill(
        self, reader: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Puts the prefix into the cache of keys and values; a hook before the forward pass of a decoder."""
        if self.is_off:
            return None
        given = self.named(args, kwargs)
        self.lengthen(given)
        cache = given.get("past_key_values")
        if not goes_on(cache):
            read = given.get("inputs_embeds")
            num_inputs = len(given["input_ids"] if read is None else read)
            given["past_key_values"] = cache = _cache(reader.config) if cache is None else cache
            own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            for layer, (keys, values) in enumerate(self.keys_and_values(reader, num_inputs)):
                own.update(keys, values, layer)
        return (), given

    def keys_and_values(self, reader: torch.nn.Module, num_inputs: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns keys and values of every layer, (I, N, P, D) each."""
        layers, heads, size = self.shape
        dtype = next(parameter.dtype for name, parameter in reader.named_parameters() if NAME not in name)
        if torch.is_autocast_enabled(self.weight.device.type):
            dtype = torch.get_autocast_dtype(self.weight.device.type)
        whole = self.for_inputs(num_inputs).to(dtype).view(num_inputs, self.num, layers, 2, heads, size)
        return [(keys, values) for keys, values in whole.permute(2, 3, 0, 4, 1, 5)]


class ProjectedPrefix(Prefix):
    """Keys and values that an MLP of two layers computes of trained vectors, (P, ND), as in peft."""

    def __init__(
        self, weight: torch.Tensor, reader: torch.nn.Module, shape: tuple[int, int, int], hidden_size: int
    ) -> None:
        super().__init__(weight, reader, shape)
        layers, heads, size = shape
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(weight.shape[1], hidden_size),
            torch.nn.Tanh(),
            torch.nn.Linear(hidden_size, 2 * layers * heads * size),
        )

    @override
    def encode(self, weight: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.encoder(weight)
        return values


def add_prefix(model: PreTrainedModel, finetuning: FinetuningConfig, name: str, seed: int) -> None:
    """Puts a prefix into every layer of a model's decoder.

    Args:
        model: mutated.
        finetuning: mode and options.
        name: of the prefix.
        seed: of the run; what is drawn is so from its address (`init`, `adapter`).

    Raises:
        ConfigError: the mode has no meaning for this model.
    """
    num = finetuning.virtual_tokens
    assert num is not None
    _refuse(model, num)
    reader = _reader(model)
    shape = layers, heads, size = cache_shape(model.config)
    device = next(model.parameters()).device
    random = torch_generator(seed, "init", "adapter")
    if finetuning.prefix_projection:
        seed_everything(seed, "init", "adapter", "encoder")
        weight = torch.randn(num, heads * size, generator=random).to(device)
        hidden_size = finetuning.hidden_size or heads * size
        prefix: Prefix = ProjectedPrefix(weight, reader, shape, hidden_size).to(device)
    else:
        weight = torch.randn(num, 2 * layers * heads * size, generator=random).to(device) * DEVIATION
        prefix = Prefix(weight, reader, shape)
    put_prefix_in(model, prefix, name)


def put_prefix_in(model: PreTrainedModel, prefix: Prefix, name: str) -> None:
    """Puts a prefix into a model's decoder; mutates the model."""
    reader = _reader(model)
    setattr(reader, NAME, torch.nn.ModuleDict({name: prefix}))
    reader.register_forward_pre_hook(prefix.fill, with_kwargs=True)
    prefix.train(reader.training)


def cache_shape(settings: PretrainedConfig) -> tuple[int, int, int]:
    """Returns what a decoder caches of a token: layers, heads of keys and values, numbers of a head."""
    decoder: Any = settings.get_text_config(decoder=True)
    layers = getattr(decoder, "num_decoder_layers", None) or decoder.num_hidden_layers
    heads = getattr(decoder, "num_key_value_heads", None) or decoder.num_attention_heads
    size = getattr(decoder, "head_dim", None) or decoder.hidden_size // decoder.num_attention_heads
    return layers, heads, size


def _cache(settings: PretrainedConfig) -> Any:
    """Returns an empty cache, as the model itself makes it."""
    own = DynamicCache(config=settings)
    return EncoderDecoderCache(own, DynamicCache(config=settings)) if settings.is_encoder_decoder else own


def _reader(model: PreTrainedModel) -> Any:
    """Returns the part of a model whose layers get a prefix: the body, or the decoder of an encoder-decoder."""
    return model.get_decoder() if model.config.is_encoder_decoder else model.base_model


def _refuse(model: PreTrainedModel, num: int) -> None:
    """Refuses models that cannot take a prefix.

    Raises:
        ConfigError: naming why.
    """
    name, settings = type(model).__name__, model.config
    if is_encoder(model):
        raise ConfigError(
            "finetuning.mode: prefix puts keys and values before the text's, which an encoder's attention mask leaves "
            f"out: it needs a decoder or an encoder-decoder, {name} is neither; got prefix"
        )
    if settings.is_encoder_decoder and model.get_output_embeddings() is None:
        raise ConfigError(f"finetuning.mode: prefix serves an encoder-decoder that writes, {name} does not; got prefix")
    if settings.model_type not in FAMILIES or _reader(model) is model:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(
            f"finetuning.mode: prefix serves decoders and encoder-decoders of {known}; got prefix with a model of "
            f"type {settings.model_type}"
        )
    limits = position_limits(model)
    limit = limits.target if settings.is_encoder_decoder else limits.input
    if limit is not None and limit - num < LEAST_TEXT:
        raise ConfigError(
            f"finetuning.virtual_tokens: must be at most {limit - LEAST_TEXT}: this model's decoder can read {limit} "
            f"tokens, and {LEAST_TEXT} of a text are the least; got {num}"
        )
