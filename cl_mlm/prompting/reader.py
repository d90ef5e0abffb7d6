"""The model that reads prompts: its tokens, its limit, and how it is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError
from cl_mlm.models.generation import decoder_start_token
from cl_mlm.objective import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

# Tokenizers without a limit of their own say so with a number of thirty digits.
LONGEST = 10**6


@dataclass(frozen=True)
class Reader:
    """A language model as prompts use it.

    Attributes:
        model: with the head of a language model.
        tokenizer: the model's.
        kind: `causal`, `seq2seq` or `masked`.
        precision: gives a context in which the model runs in the run's precision.
        batch_size: sequences at once.
        wanted_length: tokens of a prompt and its answer; None: the model's limit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Head
    precision: Callable[[], AbstractContextManager[None]]
    batch_size: int
    wanted_length: int | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model runs in the run's precision."""
        return self.precision()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = self.model.device
        return found

    @cached_property
    def max_length(self) -> int:
        """Tokens of a sequence at most, the answer's included.

        Raises:
            ConfigError: the model takes fewer than are wanted.
        """
        limits = model_limits(self.model.config)
        # A decoder's own positions say it better; RoBERTa's config counts two that no token takes.
        if self.tokenizer.model_max_length < LONGEST and not (self.kind == "causal" and limits):
            limits.append(int(self.tokenizer.model_max_length))
        limit = min(limits, default=None)
        if self.wanted_length is None:
            return limit or 512
        if limit is not None and self.wanted_length > limit:
            raise ConfigError(f"prompting.max_length: must be at most the model's {limit}, got {self.wanted_length}")
        return self.wanted_length

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and behind a text."""
        inner, whole = self.tokens(["a"])[0], list(self.tokenizer("a", verbose=False)["input_ids"])
        first = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        return whole[:first], whole[first + len(inner) :]

    @cached_property
    def decoder_start(self) -> int | None:
        """The decoder's first token in an encoder-decoder; None: there is none."""
        return decoder_start_token(self.model) if self.kind == "seq2seq" else None

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Names of what the model's forward pass takes."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @property
    def pad(self) -> int:
        """The padding token."""
        found = self.tokenizer.pad_token_id
        assert isinstance(found, int)
        return found

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of texts without special ones."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [list(ids) for ids in found]

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns token ids and their mask on the device, int64 (rows, longest) each."""
        import torch

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
        """Puts the model in evaluation mode, without gradients and in the run's precision; modes are restored."""
        import torch

        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield
        finally:
            for module, training in modes:
                module.training = training


def model_limits(settings: PretrainedConfig) -> list[int]:
    """Returns how many tokens a model's config says that it takes; none where it says nothing."""
    found = [getattr(settings, name, None) for name in ("n_positions", "max_position_embeddings")]
    return [limit for limit in found if isinstance(limit, int) and limit > 0]


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns log p(target) in nats, fp32, of the shape of `targets`: logits have the vocabulary as one more axis."""
    logits = logits.float()
    chosen: torch.Tensor = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen


def as_floats(values: Any) -> FloatArray:
    """Returns a tensor as float64."""
    found: FloatArray = values.double().cpu().numpy()
    return found
