"""Rows longer than a model can read, and tokenizers that lack a token."""

from pathlib import Path

from tests.odd_inputs.case import CONFIG, ROWS, Case, Files, data

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
BART = {"d_model": 16, "decoder_start_token_id": 2, "max_position_embeddings": 66}
BART |= {f"{half}_{part}": 2 for half in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")}
MODELS = {
    "roberta": SIZES | {"max_position_embeddings": 66, "pad_token_id": 1},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 66},
    "bart": BART,
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
}
LONG = ROWS.replace("\na ", "\na " + "w " * 90)
TEXTS = "source,target\n" + "".join(f"a {'w ' * 40}{i},b {i}\n" for i in range(8))
OTHER_TEXTS = TEXTS.replace("\na ", "\nc ")


def model(kind: str, folder: Path) -> None:
    """Writes a small random model of a family, with the tokenizer of `tiny-decoder`."""
    import torch
    from transformers import AutoConfig, AutoModel

    from cl_mlm.models.tiny import letter_tokenizer

    tokenizer = letter_tokenizer("tiny-decoder")
    tokenizer.model_max_length = 10**30
    ids = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0} | MODELS[kind]
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def files(kind: str, train: str = LONG, test: str | None = None, config: str = CONFIG, stream: str = "") -> Files:
    """Returns data and a model of this family, with `training.max_length` 128."""
    text = config.replace("{name: tiny}", "{name: ./model}").replace("max_length: 32", "max_length: 128")
    if stream:
        text = text.replace("labels_per_stage: 2, order_seed: null", stream)
    return data(train, test, text) | {"model": lambda path: model(kind, path)}


def bare_model(kind: str, folder: Path, **tokens: str) -> None:
    """Writes the same model with a tokenizer that knows the words of ROWS, and no special tokens but these."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model(kind, folder)
    words = ["a", "b", "w", "red", "blue", "green", "grey", *map(str, range(20))]
    index = {word: i for i, word in enumerate([*tokens.values(), *words])}
    backend = Tokenizer(models.WordLevel(index))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)


def bare_files(kind: str, train: str = ROWS, stream: str = "", **tokens: str) -> Files:
    """Returns data and a model whose tokenizer has only these special tokens."""
    return files(kind, train, stream=stream) | {"model": lambda path: bare_model(kind, path, **tokens)}


MASKED = "stages_by: whole, objective: language_modelling, options: {kind: masked}"
WRITING = "stages_by: whole, objective: text_to_text, options: {max_new_tokens: 10}"

CASES = [
    Case(
        given="rows of 92 words, `max_length: 128`, a RoBERTa with 66 positions",
        says="training.max_length: must be at most 64, the tokens that this model can read, or null: 80 of 160 rows",
        files=files("roberta"),
    ),
    Case(
        given="the same with `run`", says="must be at most 64", command=("run", "config.yaml"), files=files("roberta")
    ),
    Case(
        given="the same with `max_length: null`",
        says="good to run",
        code=0,
        command=("check", "config.yaml", "training.max_length=null"),
        files=files("roberta"),
    ),
    Case(given="short rows and the same model", says="good to run", code=0, files=files("roberta", ROWS)),
    Case(
        given="blocks of 128 tokens for a GPT-2 with 66 positions",
        says="training.max_length: must be at most 66, the tokens that this model can read, or null: ",
        files=files("gpt2", stream="stages_by: whole, objective: language_modelling, options: {pack: true}"),
    ),
    Case(
        given="prompts that leave no room for the answer in a GPT-2 with 66 positions",
        says="this model can read 66 tokens, of which separator and target take up to",
        files=files("gpt2", TEXTS, OTHER_TEXTS, stream=WRITING),
    ),
    Case(
        given="answers longer than the decoder of a BART with 66 positions",
        says="stream.options.max_new_tokens: must be at most 66, which this model's decoder can write, got 67",
        command=("check", "config.yaml", "stream.options.max_new_tokens=67"),
        files=files("bart", TEXTS, OTHER_TEXTS, stream=WRITING),
    ),
    Case(
        given="`max_length: null` and a T5, which names no length",
        says="training.max_length: must be a number for './model', whose weights, config and tokenizer set no limit",
        command=("check", "config.yaml", "training.max_length=null"),
        files=files("t5"),
    ),
    Case(
        given="a tokenizer without special tokens, and an encoder that classifies",
        says="run: runs/odd/naive-seed0",
        code=0,
        command=("run", "config.yaml"),
        files=bare_files("roberta"),
    ),
    Case(
        given="a tokenizer without special tokens, and a decoder that classifies",
        says="model.name: a decoder that classifies needs a tokenizer with a pad_token, or another special token",
        files=bare_files("gpt2"),
    ),
    Case(
        given="the same decoder with `run`",
        says="model.name: a decoder that classifies needs a tokenizer with a pad_token, or another special token",
        command=("run", "config.yaml"),
        files=bare_files("gpt2"),
    ),
    Case(
        given="a tokenizer without end token, and a model that writes",
        says="model.name: a model that writes needs a tokenizer with an eos_token or a sep_token, got neither",
        files=bare_files("t5", TEXTS, WRITING) | {"data/test.csv": OTHER_TEXTS},
    ),
    Case(
        given="a tokenizer without mask token, and masked texts",
        says="stream.options.kind: masked needs a tokenizer with a mask token, got masked",
        files=bare_files("roberta", stream=MASKED, pad_token="<pad>"),
    ),
    Case(
        given="a tokenizer without token for unknown words, and rows that have some",
        says="model.name: its tokenizer has no token for unknown words, which split 'train' of",
        files=bare_files("roberta", ROWS.replace("\na ", "\nc ")),
    ),
]
