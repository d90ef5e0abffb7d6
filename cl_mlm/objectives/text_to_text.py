"""Text to text: translation, summaries, replies, or labels written out, by an encoder-decoder or a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.models.generation import decoder_start_token, end_token, generate_texts
from cl_mlm.objective import Encoded, Head, Lengths, Objective, Predictor, Rows, input_lengths
from cl_mlm.scores import generated_text as text_scores
from cl_mlm.scores.labels import per_class
from cl_mlm.tokens.logits import NO_TARGET, token_losses, token_sites
from cl_mlm.tokens.text_rows import padded, text_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Metric = Literal["exact_match", "rouge_l", "chrf", "bleu"]


class TextToText(Objective):
    """A text for each text: columns `source` and `target`; every token of the target is a loss item.

    An encoder-decoder reads prefix and source and writes the target. A decoder goes on from prefix, source and
    separator; only the target's tokens are in its loss. A source is cut to `training.max_length` tokens; what a decoder
    reads is longer by separator and target.

    Args:
        prefix: put before every source.
        separator: between source and target in a decoder; tokenized by itself.
        max_new_tokens: that are generated at most, the end token included; with `answers` no more than the longest of
            them has.
        max_target_length: tokens of a target in training at most, the end token included, which is kept where a target
            is cut; null: `max_new_tokens`.
        metric: which one is `score`.
        answers: the only texts that are answers: any other output is a format failure; null: any text may be one.
    """

    heads: ClassVar[tuple[Head, ...]] = ("seq2seq", "causal")
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    reference_columns: ClassVar[tuple[str, ...]] = ("target",)
    text_columns: ClassVar[tuple[str, ...]] = ("source", "target")
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"

    def __init__(
        self,
        prefix: str = "",
        separator: str = "\nOutput:\n",
        max_new_tokens: int = 64,
        max_target_length: int | None = None,
        metric: Metric = "exact_match",
        answers: list[str] | None = None,
    ) -> None:
        self.prefix = prefix
        self.separator = separator
        self.max_new_tokens = max_new_tokens
        self.max_target_length = max_target_length
        self.metric = metric
        self.answers = answers
        self._decoder_start: int | None = None

    @override
    def faults(self, max_length: int) -> list[str]:
        faults = [f"max_new_tokens: must be at least 2, got {self.max_new_tokens}"] * (self.max_new_tokens < 2)
        if self.max_target_length is not None and self.max_target_length < 2:
            faults.append(f"max_target_length: must be at least 2 or null, got {self.max_target_length}")
        if self.answers is None:
            return faults
        known = [text_scores.folded(answer) for answer in self.answers]
        if not all(known) or len({*known}) < max(1, len(known)):
            faults.append(f"answers: must be different texts that are not empty, or null, got {self.answers}")
        return faults

    @override
    def bind(self, model: PreTrainedModel, head: Head) -> None:
        self._decoder_start = decoder_start_token(model) if head == "seq2seq" else None

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        faults = text_faults(rows, self.columns, where)
        if faults or self.answers is None:
            return faults
        known = {text_scores.folded(answer) for answer in self.answers}
        bad = [i for i, target in enumerate(rows["target"]) if text_scores.folded(target) not in known]
        if not bad:
            return []
        found, listed = rows["target"][bad[0]], ", ".join(map(repr, self.answers[:10]))
        rest = f" and {len(self.answers) - 10} more" if len(self.answers) > 10 else ""
        return [
            f"{where}: target must be one of stream.options.answers, got {found!r} in row {bad[0]} "
            f"({len(bad)} such rows); allowed: {listed}{rest}"
        ]

    @override
    def key(self, rows: Rows) -> list[str]:
        """Returns the sources."""
        return list(rows["source"])

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns `input_ids` (prefix and source, with the tokenizer's special tokens) and `target_ids` (with an end).

        The same for every family: rows are put together as a family reads them when a batch is collated.
        """
        sources = tokenizer(
            [self.prefix + source for source in rows["source"]], truncation=True, max_length=max_length, verbose=False
        )
        targets = tokenizer(list(rows["target"]), add_special_tokens=False, verbose=False)
        end, most = end_token(tokenizer), self._target_limit - 1
        return {
            "input_ids": list(sources["input_ids"]),
            "target_ids": [[*tokens[:most], end] for tokens in targets["input_ids"]],
        }

    @property
    def _target_limit(self) -> int:
        return self.max_target_length or self.max_new_tokens

    @override
    def lengths(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of sources (with the prefix) and of targets (with their end)."""
        targets = tokenizer(list(rows["target"]), add_special_tokens=False, verbose=False)["input_ids"]
        return {
            "source": input_lengths(self, rows, tokenizer, labels, max_length),
            "target": Lengths.of(self._target_limit, [len(tokens) + 1 for tokens in targets]),
        }

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns sources and shifted targets for an encoder-decoder, prompt and target in one row for a decoder."""
        import torch

        answers = [tokens.tolist() for tokens in encoded["target_ids"]]
        count = torch.tensor([float(len(tokens)) for tokens in answers])
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int)
        if self._decoder_start is None:
            prompts = self._prompts(encoded["input_ids"], tokenizer)
            whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            wanted = [
                [NO_TARGET] * (len(prompt) - 1) + [*answer, NO_TARGET]
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
            inputs, mask = padded({"input_ids": whole, "targets": wanted}, {"input_ids": pad, "targets": NO_TARGET})
            targets = inputs.pop("targets")
            return Batch({**inputs, "attention_mask": mask}, targets, ids, count, num_tokens=int(mask.sum()))
        inputs, mask = padded(encoded, {"input_ids": pad})
        shifted = [[self._decoder_start, *answer[:-1]] for answer in answers]
        written, _ = padded({"input_ids": shifted, "targets": answers}, {"input_ids": pad, "targets": NO_TARGET})
        inputs |= {"attention_mask": mask, "decoder_input_ids": written["input_ids"]}
        return Batch(inputs, written["targets"], ids, count, num_tokens=int(mask.sum() + count.sum()))

    def _prompts(self, sources: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Returns sources without an end, which would end the text before the target, and with the separator."""
        end = end_token(tokenizer)
        separator = list(tokenizer(self.separator, add_special_tokens=False, verbose=False)["input_ids"])
        prompts = []
        for tokens in sources:
            prompt = tokens.tolist()
            num_ends = sum(1 for _ in takewhile(lambda token: token == end, reversed(prompt)))
            prompts.append([*prompt[: len(prompt) - num_ends], *separator] or [end])
        return prompts

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed cross-entropy of every row's target tokens, in nats."""
        return token_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every target token."""
        return token_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the texts that the model writes, greedily."""
        pad, most = run.tokenizer.pad_token_id, self.max_new_tokens
        assert isinstance(pad, int)
        if self.answers is not None:
            tokens = run.tokenizer(self.answers, add_special_tokens=False, verbose=False)["input_ids"]
            most = min(most, 1 + max(map(len, tokens)))
        if self._decoder_start is None:
            return Predictions(generate_texts(run, left_padded_prompts(batch, pad), most))
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        return Predictions(generate_texts(run, inputs, most, self._decoder_start))

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `exact_match`, `rouge_l`, `chrf` and `bleu`, with `answers` also `format_failures`, each in 0-1."""
        scores = {
            "exact_match": text_scores.exact_match(predictions, references),
            "rouge_l": text_scores.rouge_l(predictions, references),
            "chrf": text_scores.chrf(predictions, references),
            "bleu": text_scores.bleu(predictions, references),
        }
        if self.answers is not None:
            scores["format_failures"] = text_scores.format_failures(predictions, self.answers)
        return {"score": scores[self.metric], **scores}

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Returns a line for each of the allowed answers."""
        if self.answers is None:
            return []
        written, right = ([text_scores.folded(text) for text in texts] for texts in (predictions, references))
        return per_class(written, right, [text_scores.folded(answer) for answer in self.answers])


def left_padded_prompts(batch: Batch, pad: int) -> dict[str, torch.Tensor]:
    """Returns a decoder's prompts without their targets, the padding on the left: `input_ids` and `attention_mask`."""
    import torch

    # The last token of a prompt predicts the first of the target.
    lengths = (batch.targets != NO_TARGET).int().argmax(1) + 1
    width = int(lengths.max())
    places = torch.arange(width, device=batch.device)[None] - (width - lengths)[:, None]
    mask = places >= 0
    ids = batch.inputs["input_ids"].gather(1, places.clamp_min(0)).masked_fill(~mask, pad)
    return {"input_ids": ids, "attention_mask": mask.long()}
