"""Rows that no model can get right: what `check` says of them before anything is trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.odd_inputs.case import Case, Files

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def bert(folder: Path) -> None:
    """Writes config and tokenizer of a small BERT, whose pieces are letters; it drops what is invisible."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *".,-!?'"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=len(pieces), **small).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special).save_pretrained(folder)


def t5(folder: Path) -> None:
    """Writes config and tokenizer of a small T5, whose vocabulary has no braces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in f'{LETTERS}{LETTERS.upper()}.,:!?"']
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5Config(vocab_size=len(pieces), **small).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def files(
    rows: Sequence[dict[str, Any]],
    objective: str,
    options: str = "{}",
    model: str | Callable[[Path], None] = "tiny",
    stages: str = "stages_by: files, stages: [{path: data}]",
) -> Files:
    """Returns a config and three splits of these rows, in each of which a number makes the inputs differ."""
    name = model if isinstance(model, str) else "./model"
    section = f"name: files, path: ., {stages}, objective: {objective}, options: {options}, overlap: keep"
    config = f"experiment: odd\nstream: {{{section}}}\nmodel: {{name: {name}}}\n"
    config += "training: {steps: 2, batch_size: 4, max_length: 32}\n"
    content: Files = {"config.yaml": config}
    for number, split in enumerate(("train", "validation", "test")):
        numbered = [{**row, _input(row): _with(row[_input(row)], number)} for row in rows]
        content[f"data/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in numbered)
    return content if isinstance(model, str) else {**content, "model": model}


def _input(row: dict[str, Any]) -> str:
    return next(name for name in ("source", "context", "text", "tokens") if name in row)


def _with(value: Any, number: int) -> Any:
    """Returns the text with a number behind it; a list of words with one more in place of its first."""
    return [f"{value[0]}{number}", *value[1:]] if isinstance(value, list) else f"{value} {number}"


def tagged(*words: str) -> list[dict[str, Any]]:
    """Returns rows `in <word>`, whose second word is an entity."""
    return [{"tokens": ["in", word], "tags": ["O", "B-city"]} for word in words]


def written(*targets: str) -> list[dict[str, Any]]:
    """Returns rows with these targets."""
    return [{"source": f"say {i}", "target": target} for i, target in enumerate(targets)]


def asked(context: str, *answers: str) -> list[dict[str, Any]]:
    """Returns a row for each answer that stands in the context."""
    return [
        {"context": context, "question": f"what {i}", "answers": {"text": [a], "answer_start": [context.index(a)]}}
        for i, a in enumerate(answers)
    ]


BY_TYPES = "path: data, stages_by: types, types_per_stage: 1, order_seed: null"
LONG = "built in the nineties by a firm of berlin and of paris"

CASES = [
    Case(
        given="an entity on a zero-width space (U+200B), with a BERT vocabulary",
        says="perfect model reaches 0.666 (entity F1): 1 of 2 test rows cannot be right: in 1 an entity holds a word "
        "without a token (row 1: '\\u200b')",
        code=0,
        files=files(tagged("rome", "\u200b"), "tagging", model=bert),
    ),
    Case(
        given="an entity on the selector of an emoji (U+FE0F), with a BERT vocabulary",
        says="in 1 an entity holds a word without a token (row 1: '\\ufe0f')",
        code=0,
        files=files(tagged("rome", "\ufe0f"), "tagging", model=bert),
    ),
    Case(
        given="an entity beyond `training.max_length`",
        says="in 1 an entity reaches beyond training.max_length 32 (row 1: word 41 of 41)",
        code=0,
        files=files(
            [*tagged("rome"), {"tokens": ["w"] * 40 + ["oslo"], "tags": ["O"] * 40 + ["B-city"]}],
            "tagging",
        ),
    ),
    Case(
        given='a target `{"id": 3}` that a T5 vocabulary cannot write',
        says="perfect model reaches 0.500 (exact_match): 1 of 2 test rows cannot be right: in 1 the target holds "
        """characters that the vocabulary lacks (row 1: '{"id": 3}' becomes '"id": 3')""",
        code=0,
        files=files(written("yes", '{"id": 3}'), "text_to_text", model=t5),
    ),
    Case(
        given="a target longer than `max_new_tokens`",
        says="in 1 the target is longer than max_new_tokens 8 (row 1: 10 tokens with the end token)",
        code=0,
        files=files(written("yes", "a b c d e"), "text_to_text", "{max_new_tokens: 8}", "tiny-decoder"),
    ),
    Case(
        given="a target that holds the token that ends a text",
        says="in 1 the target holds the token that ends a text",
        code=0,
        files=files(written("yes", "one </s> two"), "text_to_text", model=t5),
    ),
    Case(
        given="an answer that no window of a context holds",
        says="in 1 no window of training.max_length 32 holds the whole answer (windows share stride 4)",
        code=0,
        files=files(asked(f"it was {LONG} near a river", "river", LONG), "question_answering", "{stride: 4}", bert),
    ),
    Case(
        given="an answer longer than `max_answer_tokens`",
        says="in 1 the answer is longer than max_answer_tokens 3 (row 1: 'berlin')",
        code=0,
        files=files(
            asked("a firm of berlin", "a", "berlin"), "question_answering", "{stride: 4, max_answer_tokens: 3}", bert
        ),
    ),
    Case(
        given="an answer that is an article alone",
        says="in 1 the answer has no word beside articles and punctuation (row 1: 'the')",
        code=0,
        files=files(asked("by the firm", "firm", "the"), "question_answering", "{stride: 4}", bert),
    ),
    Case(
        given="test values that are all equal",
        says="perfect model reaches 0.500 ((1 + pearson) / 2): 2 of 2 test rows cannot be right",
        code=0,
        files=files([{"text": "a", "value": 2.0}, {"text": "b", "value": 2.0}], "regression"),
    ),
]
