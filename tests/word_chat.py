"""A tokenizer of whole words, which writes conversations as Llama 3 does, and its tokens by hand."""

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|begin|>", "<|head|>", "<|/head|>", "<|eot|>"]
WORDS = [
    "system",
    "user",
    "assistant",
    "be",
    "kind",
    "hi",
    "hello",
    "how",
    "are",
    "you",
    "fine",
    "?",
    "a",
    "b",
    "c",
    "d",
]
LLAMA = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|> ' + m.content | trim + ' <|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|> ' }}{% endif %}"
)


def tokenizer(template=LLAMA):
    """Returns a tokenizer of whole words, which writes conversations as Llama 3 does."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|eot|>", unk_token="[UNK]", chat_template=template
    )


def ids(text):
    listed = [*SPECIAL, "[UNK]", *WORDS]
    return [listed.index(word) for word in text.split()]
