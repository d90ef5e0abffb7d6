"""Soft prompts: embeddings of virtual tokens before those of every text (modes `prompt` and `p_tuning`).

Lester, Al-Rfou and Constant (2021), The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv:2104.08691: the
embeddings are trained themselves. Liu et al. (2021), GPT Understands, Too, arXiv:2103.10385: they are the output of an
MLP over trained vectors. Differs from the latter: no LSTM, as in peft; all virtual tokens come first.

What the text's own tokens get of a model is the same in number and order as without a prompt: a head over tokens,
spans or a vocabulary sees them alone, and a decoder classifies a row at its last token. An encoder classifies a row at
position 0, which is now the first virtual token.

Axes: I inputs, P virtual tokens, T tokens, H hidden.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.models.positions import position_limits
from cl_mlm.models.virtual_tokens import NAME, VirtualTokens, goes_on, virtual_tokens_of
from cl_mlm.randomness import seed_everything, torch_generator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.config.schema import FinetuningConfig

LEAST_TEXT = 4  # tokens of a text that must fit behind a prompt


class SoftPrompt(VirtualTokens):
    """Trained embeddings, (P, H)."""

    @override
    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Returns the prompt of every input, (I, P, H).

        Args:
            embedded: embeddings of the inputs' tokens, (I, T, H).
        """
        return self.for_inputs(len(embedded)).to(embedded.dtype)

    def read_first(
        self, reader: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Puts the prompt before the tokens; a hook before the forward pass of the part that reads them."""
        if self.is_off:
            return None
        given = self.named(args, kwargs)
        self.lengthen(given)
        if not goes_on(given.get("past_key_values")):
            embedded = given.get("inputs_embeds")
            embedded = reader.get_input_embeddings()(given["input_ids"]) if embedded is None else embedded
            given |= {"input_ids": None, "inputs_embeds": torch.cat([self(embedded), embedded], 1)}
            types = given.get("token_type_ids")
            if types is not None:
                given["token_type_ids"] = torch.cat([types.new_zeros(len(types), self.num), types], 1)
            positions = given.get("position_ids")
            if positions is not None:
                first = torch.arange(self.num, device=positions.device).expand(len(positions), -1)
                given["position_ids"] = torch.cat([first.to(positions.dtype), positions], 1)
        return (), given

    def lengthen_mask(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Lets the decoder see the prompt; a hook before the forward pass of a whole encoder-decoder."""
        mask, encoded = kwargs.get("attention_mask"), kwargs.get("encoder_outputs")
        if self.is_off or mask is None or (encoded is not None and encoded[0].shape[1] == mask.shape[1]):
            return None
        return args, kwargs | {"attention_mask": self.longer(mask)}

    def cut(self, head: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Leaves the text's own tokens; a hook before the forward pass of a head over tokens."""
        features = args[0]
        is_whole = self.is_off or features.dim() < 3
        return None if is_whole else (features[:, -self.num_read :], *args[1:])


class EncodedPrompt(SoftPrompt):
    """Embeddings that an MLP of three layers computes of trained vectors, (P, H), as in peft."""

    def __init__(self, weight: torch.Tensor, reader: torch.nn.Module, hidden_size: int) -> None:
        super().__init__(weight, reader)
        width = weight.shape[1]
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(width, hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_size, hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_size, width),
        )

    @override
    def encode(self, weight: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.encoder(weight)
        return values


def add_soft_prompt(model: PreTrainedModel, finetuning: FinetuningConfig, name: str, seed: int) -> None:
    """Puts a soft prompt before all that a model reads; `hide_prompt` must follow for each head.

    Args:
        model: mutated.
        finetuning: mode and options; `init: text` begins as `vocab` does, and `start_from_text` must follow.
        name: of the prompt.
        seed: of the run; what is drawn is so from its address (`init`, `adapter`).

    Raises:
        ConfigError: the mode has no meaning for this model.
    """
    num = finetuning.virtual_tokens
    assert num is not None
    _refuse(model, finetuning.mode, num)
    reader = _reader(model)
    table = reader.get_input_embeddings()
    width, device = table.weight.shape[1], table.weight.device
    random = torch_generator(seed, "init", "adapter")
    if finetuning.mode == "p_tuning":
        seed_everything(seed, "init", "adapter", "encoder")
        weight = torch.randn(num, width, generator=random).to(device)
        prompt: SoftPrompt = EncodedPrompt(weight, reader, finetuning.hidden_size or width).to(device)
    else:
        prompt = SoftPrompt(_first(table, num, random, is_random=finetuning.init == "random"), reader)
    put_in(model, prompt, name)


def put_in(model: PreTrainedModel, prompt: SoftPrompt, name: str) -> None:
    """Puts a prompt into the part of a model that reads it; mutates the model."""
    reader = _reader(model)
    setattr(reader, NAME, torch.nn.ModuleDict({name: prompt}))
    reader.register_forward_pre_hook(prompt.read_first, with_kwargs=True)
    if reader is not model.base_model:
        model.register_forward_pre_hook(prompt.lengthen_mask, with_kwargs=True)
    prompt.train(reader.training)


def hide_prompt(model: PreTrainedModel, head: torch.nn.Module) -> None:
    """Lets a head of a model with a soft prompt see the text's own tokens alone; so do the head's other hooks."""
    prompt = virtual_tokens_of(model)
    if isinstance(prompt, SoftPrompt) and not model.config.is_encoder_decoder:  # there a decoder reads no prompt
        head.register_forward_pre_hook(prompt.cut, prepend=True)


def start_from_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Lets the prompt of a model begin as the embeddings of a text's tokens, cut or repeated to its length.

    Raises:
        ConfigError: the text has no tokens.
    """
    prompt = virtual_tokens_of(model)
    assert prompt is not None
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not tokens:
        raise ConfigError(f"finetuning.init_text: must have tokens in the model's tokenizer, got {text!r}")
    repeated = (tokens * math.ceil(prompt.num / len(tokens)))[: prompt.num]
    ids = torch.tensor(repeated, device=prompt.weight.device)
    with torch.no_grad():
        prompt.weight.copy_(_reader(model).get_input_embeddings()(ids))


def _refuse(model: PreTrainedModel, mode: str, num: int) -> None:
    """Refuses models that cannot read a soft prompt.

    Raises:
        ConfigError: naming why.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder and model.get_output_embeddings() is None:
        raise ConfigError(
            f"finetuning.mode: {mode} puts embeddings in the place of tokens, which {name} refuses (inputs_embeds): of "
            f"an encoder-decoder, only the form that writes reads them; got {mode}"
        )
    reader = _reader(model)
    if reader is model or "inputs_embeds" not in inspect.signature(reader.forward).parameters:
        raise ConfigError(
            f"finetuning.mode: {mode} puts embeddings in the place of tokens, which the body of {name} does not read; "
            f"got {mode}"
        )
    if getattr(model.config, "classifier_pooling", None) == "mean":
        raise ConfigError(
            f"finetuning.mode: {mode} needs a head that reads one token, {name} has the mean of all "
            f"(classifier_pooling in its config.json); got {mode}"
        )
    limit = position_limits(model).input
    if limit is not None and limit - num < LEAST_TEXT:
        raise ConfigError(
            f"finetuning.virtual_tokens: must be at most {limit - LEAST_TEXT}: this model can read {limit} tokens, and "
            f"{LEAST_TEXT} of a text are the least; got {num}"
        )


def _reader(model: PreTrainedModel) -> Any:
    """Returns the part of a model that embeds the text: the body, or the encoder of an encoder-decoder."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def _first(table: Any, num: int, random: torch.Generator, *, is_random: bool) -> torch.Tensor:
    """Returns what a prompt begins as, (P, H): embeddings of the vocabulary, or random numbers as large as they are."""
    rows = torch.randint(len(table.weight), (num,), generator=random).to(table.weight.device)
    with torch.no_grad():
        drawn: torch.Tensor = table(rows).float()  # BART's table multiplies what it holds
        if is_random and not drawn.is_meta:
            drawn = torch.randn(drawn.shape, generator=random).to(drawn) * drawn.std()
    return drawn
