"""The model called `tiny`: a small BERT built from a config, with nothing to download.

Its vocabulary is fixed before any text is seen: the 256 bytes, all pairs and all triples of the letters a-z. Words are
cut from the left into the longest pieces, so that any text can be encoded and no stage's words are favoured.
"""

from __future__ import annotations

from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
POSITIONS = 512
# BERT's 0.02 is meant for 768 dimensions: at 128 the signal of a token drowns and training stalls at chance.
INITIALIZER_RANGE = 0.06


def build_tiny(
    num_labels: int, dropout: float | None, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a BERT of 2 layers, 128 wide, with random weights from torch's global generator, and its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = letter_tokenizer()
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=max(max_length, POSITIONS),
        initializer_range=INITIALIZER_RANGE,
        hidden_dropout_prob=0.1 if dropout is None else dropout,
        attention_probs_dropout_prob=0.1 if dropout is None else dropout,
        pad_token_id=0,  # the first of SPECIAL
    )
    settings.num_labels = num_labels
    return BertForSequenceClassification(settings), tokenizer


def letter_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of bytes, letter pairs and letter triples; lower case; it was trained on nothing."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["".join(letters) for size in (2, 3) for letters in product(ascii_lowercase, repeat=size)]
    vocabulary = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]
    index = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # WordPiece takes cubic time in the length of a word, and [UNK] for one of more than 100 bytes.
    short = pre_tokenizers.Split(Regex(".{99}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), as_bytes, short])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, index[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=POSITIONS,
        **SPECIAL,
    )
