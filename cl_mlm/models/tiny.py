"""The models called `tiny...`: a small BERT, GPT-2 and T5 built from configs, with nothing to download.

Their vocabulary is fixed before any text is seen: the 256 bytes, all pairs and all triples of the letters a-z. Words
are cut from the left into the longest pieces, so that any text can be encoded and no stage's words are favoured. From
bytes alone, a model of this size does not learn the embedded stream within the time of a demonstration.
The models that write keep white space and capitals as bytes, so that they can write any text.
"""

from __future__ import annotations

from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast, T5Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TINY = ("tiny", "tiny-decoder", "tiny-encoder-decoder")

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
POSITIONS = 512
# BERT's 0.02 is meant for 768 dimensions; with 128 a token's signal is lost in the sum, and training stalls at chance.
INITIALIZER_RANGE = 0.06


def tiny_config(name: str, dropout: float | None, max_length: int | None) -> PretrainedConfig:
    """Returns the config of one of TINY: 2 layers, 128 wide; `max_length` tokens fit, and always POSITIONS."""
    vocabulary = len(letter_tokenizer())
    probability = 0.1 if dropout is None else dropout
    positions = max(max_length or 0, POSITIONS)
    if name == "tiny-decoder":
        return GPT2Config(
            vocab_size=vocabulary,
            n_embd=128,
            n_layer=2,
            n_head=4,
            n_inner=256,
            n_positions=2 * positions,  # the prompt and the answer
            initializer_range=INITIALIZER_RANGE,
            resid_pdrop=probability,
            embd_pdrop=probability,
            attn_pdrop=probability,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    if name == "tiny-encoder-decoder":
        settings = T5Config(
            vocab_size=vocabulary,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            dropout_rate=probability,
            eos_token_id=3,
            pad_token_id=0,
        )
        settings.decoder_start_token_id = 0
        return settings
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=positions,
        initializer_range=INITIALIZER_RANGE,
        hidden_dropout_prob=probability,
        attention_probs_dropout_prob=probability,
        pad_token_id=0,  # the first of SPECIAL
    )


def letter_tokenizer(name: str = "tiny") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of one of TINY: bytes, letter pairs and letter triples, trained on nothing.

    That of `tiny` folds case and white space. For the models that write, tokens decode to exactly the text that was
    encoded, `[SEP]` ends a text, and there are no token types.
    """
    pieces = ["".join(letters) for size in (2, 3) for letters in product(ascii_lowercase, repeat=size)]
    vocabulary = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]
    index = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]", continuing_subword_prefix=""))
    writes = name != "tiny"
    if not writes:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # WordPiece takes cubic time in the length of a word, and gives [UNK] for a word of more than 100 bytes.
    short_pieces = pre_tokenizers.Split(Regex(".{99}"), behavior="isolated")
    every_space = pre_tokenizers.Split(Regex(r"\s"), behavior="isolated")
    words = pre_tokenizers.Sequence([every_space, pre_tokenizers.Punctuation("isolated")])
    split_words = words if writes else pre_tokenizers.BertPreTokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split_words, as_bytes, short_pieces])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, index[token]) for token in ("[CLS]", "[SEP]")],
    )
    inputs = ["input_ids", "attention_mask"] if writes else ["input_ids", "token_type_ids", "attention_mask"]
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]"} if writes else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=inputs, model_max_length=POSITIONS, **SPECIAL, **ends
    )
