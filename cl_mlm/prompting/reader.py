"""The model that reads prompts: its tokenizer, its limit of tokens, and how it is run."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.errors import ConfigError
from cl_mlm.models.generation import decoder_start_token
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.models.positions import own_length, position_limits
from cl_mlm.tokens.frames import frame, has_tokens
from cl_mlm.tokens.text_rows import padding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.objective import Head
    from cl_mlm.tokens.chat import Chat

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

UNSAID = 512  # tokens of a prompt at most where neither model nor config say it


@dataclass(frozen=True)
class Reader:
    """A language model as prompts use it.

    Attributes:
        model: a model with the head of a language model.
        tokenizer: the model's.
        kind: `causal`, `seq2seq` or `masked`.
        precision: returns a context in which the model runs in the run's precision.
        batch_size: sequences that the model reads at once.
        wanted_length: tokens of a prompt and its answer at most, as the config asks; None: the model's limit.
        chat: how prompts are written, whose template writes the special tokens, too; None: prompts are plain texts.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Head
    precision: Callable[[], AbstractContextManager[None]]
    batch_size: int
    wanted_length: int | None = None
    chat: Chat | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model runs in the run's precision."""
        return self.precision()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def max_length(self) -> int:
        """Tokens of a sequence at most, those of the answer included.

        Raises:
            ConfigError: the model takes fewer than are wanted.
        """
        settings, limit = self.model.config, position_limits(self.model).input
        return prompt_length(own_length(limit, settings, self.tokenizer, self.kind), self.wanted_length)

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and behind a text; a chat has its own in the text."""
        return ([], []) if self.chat else frame(self.tokenizer)

    @cached_property
    def decoder_start(self) -> int | None:
        """The first token of an encoder-decoder's decoder; None for other models."""
        return decoder_start_token(self.model) if self.kind == "seq2seq" else None

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments of the model's forward pass."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @property
    def pad(self) -> int:
        """The padding token."""
        return padding(self.tokenizer)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of texts without special ones.

        Raises:
            ConfigError: the tokenizer fails on a text, having no token for unknown words.
        """
        if not texts:
            return []
        try:
            ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:
            odd = next((text for text in texts if text and not has_tokens(self.tokenizer, text)), None)
            if odd is None:
                raise
            raise ConfigError(f"prompting: this model's tokenizer has no token for unknown words: {odd!r}") from error
        return [list(of_text) for of_text in ids]

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns token ids and their mask on the device, int64 (rows, tokens of the longest) each.

        Args:
            rows: tokens of every row.
            left: whether the padding is on the left.
        """
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place] = torch.tensor(row, dtype=torch.int64)
            mask[i, place] = 1
        return ids.to(self.device), mask.to(self.device)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block the model is in evaluation mode, without gradients, and in the run's precision."""
        with evaluation_mode(self.model), torch.inference_mode(), self.autocast():
            yield


def prompt_length(own: int | None, wanted: int | None) -> int:
    """Returns the tokens of a prompt and its answer at most.

    Args:
        own: the model's own length; None: it has none.
        wanted: as the config asks; None: the model's own.

    Raises:
        ConfigError: the model takes fewer than are wanted.
    """
    if wanted is None:
        return own or UNSAID
    if own is not None and wanted > own:
        raise ConfigError(f"prompting.max_length: must be at most the model's {own}, got {wanted}")
    return wanted


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns log p(target) in nats, fp32.

    Args:
        logits: (..., vocabulary).
        targets: tokens, int64 (...).
    """
    logits = logits.float()
    chosen: torch.Tensor = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen


def as_floats(values: Any) -> FloatArray:
    """Returns a tensor as a float64 array."""
    array: FloatArray = values.double().cpu().numpy()
    return array
