"""Language modelling: predicts the next token of a text (decoders), or tokens that were masked (encoders).

Axes: R rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import Encoded, Head, Objective, Predictor, RawRows
from cl_mlm.randomness import numpy_generator
from cl_mlm.tokens.frames import known_text
from cl_mlm.tokens.logits import NO_TARGET, token_losses, token_sites
from cl_mlm.tokens.masking import masked_tokens
from cl_mlm.tokens.packing import packed
from cl_mlm.tokens.text_rows import padded, padding, text_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Kind = Literal["causal", "masked"]


class LanguageModelling(Objective):
    """The probability of a text itself: column `text`; every predicted token is a loss item.

    `causal` predicts every token but the first, which is a special token. Where the tokenizer puts none there, the bos,
    eos, cls or sep token is put there, the first of these that it has.

    `masked` predicts a share of the tokens that are not special: Devlin et al. (2019), BERT, arXiv:1810.04805, appendix
    A.1. The length of a row decides how many. In training the tokens are drawn anew at every step; elsewhere
    (evaluation, Fisher information) the row's id decides which.

    A text is cut to `training.max_length` tokens, or packed: the texts of a split follow one another, with an end token
    (eos, or sep) after each, and every `training.max_length` tokens are a row. `causal` then predicts every token of a
    block, the first one from the token before the block.

    Args:
        kind: which tokens are predicted.
        mask_share: with `masked`: fraction of a row's tokens to predict, above 0 and below 1; at least one token.
        pack: whether a row is a block of packed texts and not a text.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    reference_columns: ClassVar[tuple[str, ...]] = ("text",)
    text_columns: ClassVar[tuple[str, ...]] = ("text",)
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    packable: ClassVar[bool] = True

    def __init__(self, kind: Kind = "causal", mask_share: float = 0.15, pack: bool = False) -> None:
        self.kind: Kind = kind
        self.mask_share = mask_share
        self.pack = pack
        self._mask_token, self._vocabulary = 0, 0  # known once there is a tokenizer

    @property
    @override
    def heads(self) -> tuple[Head, ...]:  # type: ignore[override]  # follows from an option
        """The form of model that the option `kind` names."""
        return (self.kind,)

    @property
    @override
    def varies(self) -> bool:  # type: ignore[override]  # follows from an option
        """Whether other tokens of a row are masked at every step."""
        return self.kind == "masked"

    @property
    @override
    def packs(self) -> bool:  # type: ignore[override]  # follows from an option
        """Whether a row is a block of packed texts."""
        return self.pack

    @override
    def faults(self, max_length: int) -> list[str]:
        if 0 < self.mask_share < 1:
            return []
        return [f"mask_share: must be above 0 and below 1, got {self.mask_share}"]

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        return text_faults(rows, self.columns, where)

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns the texts."""
        return list(rows["text"])

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns `input_ids` and `num_bytes`, the UTF-8 bytes of the text up to where the tokens were cut."""
        if faults := self.tokenizer_faults(tokenizer, self.kind):
            raise ConfigError(faults)
        start = self._start(tokenizer)
        encoding = tokenizer(list(rows["text"]), truncation=True, max_length=max_length - len(start), verbose=False)
        ids = [[*start, *tokens] for tokens in encoding["input_ids"]]
        encodings = encoding.encodings or [None] * len(ids)
        num_bytes = [_num_bytes(text, of_text) for text, of_text in zip(rows["text"], encodings, strict=True)]
        return {"input_ids": ids, "num_bytes": num_bytes}

    @override
    def encode_split(
        self,
        chunks: Iterable[RawRows],
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
    ) -> Iterator[Encoded]:
        """Yields the columns of texts, or with `pack` those of blocks; see `packed`."""
        if not self.pack:
            yield from super().encode_split(chunks, tokenizer, labels, max_length)
            return
        if faults := self.tokenizer_faults(tokenizer, self.kind):
            raise ConfigError(faults)
        yield from packed((rows["text"] for rows in chunks), tokenizer, _end_tokens(tokenizer)[0], max_length)

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        faults = []
        if self.kind == "masked" and tokenizer.mask_token_id is None:
            faults.append("stream.options.kind: masked needs a tokenizer with a mask token, got masked")
        if self.pack and not _end_tokens(tokenizer):
            faults.append("stream.options.pack: needs a tokenizer with an end (eos or sep) token, got true")
        return faults

    def _start(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Returns the special token to put first; `[]` where the tokenizer itself puts one there, or none is needed."""
        specials = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
        if self.kind == "masked" or tokenizer(known_text(tokenizer))["input_ids"][0] in specials:
            return []
        tokens = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        return [token for token in tokens if isinstance(token, int)][:1]

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns a batch of texts; with `masked` the rows' ids decide which tokens are masked.

        `extra` has `num_bytes`, (R,), and with `masked` the `tokens` as they are, (R, T), and which are `maskable`.
        """
        import torch

        pad = padding(tokenizer)
        inputs, mask = padded(encoded, {"input_ids": pad})
        inputs["attention_mask"] = mask
        tokens = inputs["input_ids"]
        extra = {"num_bytes": torch.tensor([float(size) for size in encoded["num_bytes"]])}
        if self.kind == "masked":
            extra["tokens"] = tokens
            extra["maskable"] = mask.bool() & ~torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
            return self._masked_batch(inputs, ids, extra, tokenizer)
        if self.pack:
            before = torch.tensor([int(token) for token in encoded["before"]])
            shown = torch.cat([before[:, None], tokens[:, :-1]], 1)
            inputs["input_ids"] = shown.masked_fill(mask == 0, pad)
            targets = tokens.masked_fill(mask == 0, NO_TARGET)
        else:
            targets = torch.full_like(tokens, NO_TARGET)
            targets[:, :-1] = tokens[:, 1:].masked_fill(mask[:, 1:] == 0, NO_TARGET)
        count = (targets != NO_TARGET).sum(1).float()
        return Batch(inputs, targets, ids, count, num_tokens=int(mask.sum()), extra=extra)

    def _masked_batch(
        self,
        inputs: dict[str, torch.Tensor],
        ids: torch.Tensor,
        extra: dict[str, torch.Tensor],
        tokenizer: PreTrainedTokenizerBase,
    ) -> Batch:
        """Returns a batch whose masked tokens depend on the rows' ids alone, not on the other rows of the batch."""
        import torch

        assert isinstance(tokenizer.mask_token_id, int)
        self._mask_token, self._vocabulary = tokenizer.mask_token_id, len(tokenizer)
        mask, num_maskable = inputs["attention_mask"], extra["maskable"].sum(1)
        count = torch.where(num_maskable > 0, (num_maskable * self.mask_share).round().clamp_min(1), 0.0)
        batch = Batch(inputs, extra["tokens"], ids, count, num_tokens=int(mask.sum()), extra=extra)
        draws = torch.zeros(3, *mask.shape, dtype=torch.float64)
        for row, (row_id, length) in enumerate(zip(ids.tolist(), mask.sum(1).tolist(), strict=True)):
            draws[:, row, :length] = torch.from_numpy(numpy_generator(0, "mask", row_id).random((3, length)))
        return self._masked(batch, draws)

    @override
    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Returns the rows with other tokens masked; the number of a row's masked tokens stays."""
        import torch

        if self.kind == "causal":
            return batch
        shape = (3, *batch.targets.shape)
        return self._masked(batch, torch.rand(shape, generator=generator, dtype=torch.float64))

    def _masked(self, batch: Batch, draws: torch.Tensor) -> Batch:
        """Returns the rows with the tokens masked that `draws` decides; see `masked_tokens`."""
        tokens, maskable = batch.extra["tokens"], batch.extra["maskable"]
        shown, targets = masked_tokens(tokens, maskable, batch.count, draws, self._mask_token, self._vocabulary)
        return replace(batch, inputs={**batch.inputs, "input_ids": shown}, targets=targets)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed cross-entropy of every row's predicted tokens, in nats."""
        return token_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every predicted token."""
        return token_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns for every row its loss in nats, the number of predicted tokens, and the UTF-8 bytes of its text."""
        import torch

        losses = self.loss(run.forward(batch), batch).double().cpu()
        num_bytes = batch.extra["num_bytes"].double().cpu()
        return Predictions(torch.stack([losses, batch.count.double(), num_bytes], 1).tolist())

    @override
    def references(self, rows: RawRows) -> list[Any]:
        """Returns the lengths of the texts in characters; a text is its own reference, so it is not repeated."""
        return [len(text) for text in rows["text"]]

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score`, the geometric mean probability of a token, and `perplexity`, its inverse.

        With `causal` also `bits_per_byte`: -log2 p of the texts, their end tokens included, over their UTF-8 bytes.
        """
        loss, num_tokens, num_bytes = (math.fsum(column) for column in zip(*predictions, strict=True))
        mean = loss / max(1.0, num_tokens)
        scores = {"score": math.exp(-mean), "perplexity": math.exp(min(mean, 700.0))}  # a float ends at e^709
        if self.kind == "causal":
            scores["bits_per_byte"] = loss / math.log(2) / max(1.0, num_bytes)
        return scores


def _end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if isinstance(token, int)]


def _num_bytes(text: str, encoding: Any) -> int:
    """Returns the UTF-8 bytes of a text up to where its tokens were cut; of all, where a slow tokenizer hides it."""
    if encoding is not None and encoding.overflowing:
        text = text[: max((end for _, end in encoding.offsets), default=0)]
    return len(text.encode())
