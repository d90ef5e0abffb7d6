"""Language modelling: the next token of a text (decoders), or tokens of it that were masked (encoders)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import Encoded, Head, Objective, Predictor, Rows
from cl_mlm.randomness import numpy_generator
from cl_mlm.tokens.logits import NO_TARGET, token_losses, token_sites
from cl_mlm.tokens.masking import masked_tokens
from cl_mlm.tokens.packing import packed
from cl_mlm.tokens.text_rows import padded, text_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Kind = Literal["causal", "masked"]


class LanguageModelling(Objective):
    """The probability of a text itself: column `text`; every predicted token is a loss item.

    `causal` predicts every token but the first, which is a special one: where the tokenizer puts none, the bos, eos,
    cls or sep token (the first that it has). `masked` predicts a share of the tokens that are not special: Devlin et
    al. (2019), BERT, arXiv:1810.04805, appendix A.1. In training they are drawn anew at every step, their number fixed
    by the row's length; elsewhere (evaluation, Fisher information) they follow from the row's id alone.
    A text is cut to `training.max_length` tokens, or packed: all texts of a stage's split follow one another, an end
    token (eos, or sep) after each, and every `training.max_length` tokens are a row. `causal` then predicts every one,
    the first of a block from the token before it.

    Args:
        kind: which tokens are predicted.
        mask_share: for `masked`: fraction of a row's tokens, above 0 and below 1; at least one token.
        pack: a row is a block of tokens and not a text.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    reference_columns: ClassVar[tuple[str, ...]] = ("text",)
    text_columns: ClassVar[tuple[str, ...]] = ("text",)
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"

    def __init__(self, kind: Kind = "causal", mask_share: float = 0.15, pack: bool = False) -> None:
        self.kind: Kind = kind
        self.mask_share = mask_share
        self.pack = pack
        self._mask: tuple[int, int] = (0, 0)  # the mask token and the size of the vocabulary

    @property
    @override
    def heads(self) -> tuple[Head, ...]:  # type: ignore[override]  # follows from an option
        """The form of model: that of the kind."""
        return (self.kind,)

    @property
    @override
    def varies(self) -> bool:  # type: ignore[override]  # follows from an option
        """Masked rows are others at every step."""
        return self.kind == "masked"

    @property
    @override
    def packs(self) -> bool:  # type: ignore[override]  # follows from an option
        """What the option says."""
        return self.pack

    @override
    def faults(self, max_length: int) -> list[str]:
        return [f"mask_share: must be above 0 and below 1, got {self.mask_share}"] * (not 0 < self.mask_share < 1)

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        return text_faults(rows, self.columns, where)

    @override
    def key(self, rows: Rows) -> list[str]:
        """Returns the texts."""
        return list(rows["text"])

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns `input_ids` and `num_bytes`, the UTF-8 bytes of that part of the text which they stand for."""
        self._check(tokenizer)
        start = self._start(tokenizer)
        found = tokenizer(list(rows["text"]), truncation=True, max_length=max_length - len(start), verbose=False)
        ids = [[*start, *tokens] for tokens in found["input_ids"]]
        encodings = found.encodings or [None] * len(ids)
        return {
            "input_ids": ids,
            "num_bytes": [_num_bytes(text, e) for text, e in zip(rows["text"], encodings, strict=True)],
        }

    @override
    def encode_split(
        self,
        chunks: Iterable[Rows],
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
    ) -> Iterator[Encoded]:
        """Yields texts, or with `pack` blocks: `input_ids`, `num_bytes`, and `before`, the token before the block."""
        if not self.pack:
            yield from super().encode_split(chunks, tokenizer, labels, max_length)
            return
        self._check(tokenizer)
        ends = [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if isinstance(token, int)]
        if not ends:
            raise ConfigError("stream.options.pack: needs a tokenizer with an end (eos or sep) token, got true")
        yield from packed((rows["text"] for rows in chunks), tokenizer, ends[0], max_length)

    def _check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if self.kind == "masked" and tokenizer.mask_token_id is None:
            raise ConfigError("stream.options.kind: masked needs a tokenizer with a mask token, got masked")

    def _start(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Returns the token to put first, none where the tokenizer itself puts a special one there."""
        specials = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
        if self.kind == "masked" or tokenizer("a")["input_ids"][0] in specials:
            return []
        tokens = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        return [token for token in tokens if isinstance(token, int)][:1]

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns texts, for `masked` with the tokens masked that follow from the rows' ids."""
        import torch

        assert isinstance(tokenizer.pad_token_id, int)
        inputs, mask = padded(encoded, {"input_ids": tokenizer.pad_token_id})
        inputs["attention_mask"] = mask
        tokens = inputs["input_ids"]
        extra = {"num_bytes": torch.tensor([float(size) for size in encoded["num_bytes"]])}
        if self.kind == "causal":
            if self.pack:
                before = torch.tensor([int(token) for token in encoded["before"]])
                shown = torch.cat([before[:, None], tokens[:, :-1]], 1)
                inputs["input_ids"] = shown.masked_fill(mask == 0, tokenizer.pad_token_id)
                following = tokens.masked_fill(mask == 0, NO_TARGET)
            else:
                following = torch.full_like(tokens, NO_TARGET)
                following[:, :-1] = tokens[:, 1:].masked_fill(mask[:, 1:] == 0, NO_TARGET)
            count = (following != NO_TARGET).sum(1).float()
            return Batch(inputs, following, ids, count, num_tokens=int(mask.sum()), extra=extra)
        assert isinstance(tokenizer.mask_token_id, int)
        self._mask = (tokenizer.mask_token_id, len(tokenizer))
        extra["tokens"] = tokens
        extra["maskable"] = mask.bool() & ~torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
        sizes = extra["maskable"].sum(1)
        count = torch.where(sizes > 0, (sizes * self.mask_share).round().clamp_min(1), 0.0)
        batch = Batch(inputs, tokens, ids, count, num_tokens=int(mask.sum()), extra=extra)
        draws = torch.zeros(3, *tokens.shape, dtype=torch.float64)
        for row, (name, length) in enumerate(zip(ids.tolist(), mask.sum(1).tolist(), strict=True)):
            draws[:, row, :length] = torch.from_numpy(numpy_generator(0, "mask", name).random((3, length)))
        return self._masked(batch, draws)

    @override
    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Returns the rows with other tokens masked, as many as before."""
        import torch

        if self.kind == "causal":
            return batch
        shape = (3, *batch.targets.shape)
        return self._masked(batch, torch.rand(shape, generator=generator, dtype=torch.float64))

    def _masked(self, batch: Batch, draws: torch.Tensor) -> Batch:
        tokens, maskable = batch.extra["tokens"], batch.extra["maskable"]
        shown, targets = masked_tokens(tokens, maskable, batch.count, draws, *self._mask)
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
        """Returns for every row its loss in nats, its predicted tokens, and the UTF-8 bytes of its text."""
        import torch

        losses = self.loss(run.forward(batch), batch).double().cpu()
        return Predictions(
            torch.stack([losses, batch.count.double(), batch.extra["num_bytes"].double().cpu()], 1).tolist()
        )

    @override
    def references(self, rows: Rows) -> list[Any]:
        """Returns the lengths of the texts in characters: a text is its own reference, and is not written out again."""
        return [len(text) for text in rows["text"]]

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score`, the geometric mean probability of a token, and `perplexity`, its inverse.

        With `causal` also `bits_per_byte`: -log2 p of the texts, what ends them included, over their UTF-8 bytes.
        """
        loss, tokens, size = (math.fsum(column) for column in zip(*predictions, strict=True))
        mean = loss / max(1.0, tokens)
        scores = {"score": math.exp(-mean), "perplexity": math.exp(min(mean, 700.0))}  # beyond it a float is infinite
        if self.kind == "causal":
            scores["bits_per_byte"] = loss / math.log(2) / max(1.0, size)
        return scores


def _num_bytes(text: str, encoding: Any) -> int:
    """Returns the UTF-8 bytes of a text up to where its tokens were cut; a slow tokenizer does not tell where."""
    if encoding is not None and encoding.overflowing:
        text = text[: max((end for _, end in encoding.offsets), default=0)]
    return len(text.encode())
