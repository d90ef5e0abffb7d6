"""Soft prompts and prefixes: models that cannot read them, and options that do not go together."""

from tests.odd_inputs.case import CONFIG, Case, data
from tests.odd_inputs.limits import files


def case(given: str, says: str, section: str, model: str = "tiny", code: int = 2, more: str = "") -> Case:
    """Returns a case of `check` with this section `finetuning`."""
    config = CONFIG.replace("{name: tiny}", f"{{name: {model}}}") + f"finetuning: {{{section}}}\n"
    return Case(given, says, code, files=data(config=config.replace("max_length: 32", f"max_length: 32{more}")))


CASES = [
    case("a prompt for an encoder", "good to run", "mode: prompt", code=0),
    case(
        "a prompt that is merged into the weights",
        "finetuning.export: must be adapter in mode prompt",
        "mode: prompt, export: merged",
    ),
    case(
        "no virtual tokens", "finetuning.virtual_tokens: must be at least 1, got 0", "mode: prompt, virtual_tokens: 0"
    ),
    case(
        "600 virtual tokens before a model of 512 positions",
        "finetuning.virtual_tokens: must be at most 508: this model can read 512 tokens, and 4 of a text are the least",
        "mode: p_tuning, virtual_tokens: 600",
    ),
    Case(
        given="rows of 92 words, a RoBERTa with 66 positions, `max_length: 64` and 20 virtual tokens",
        says="training.max_length: must be at most 44, the tokens that this model can read beside 20 virtual ones",
        command=("check", "config.yaml", "training.max_length=64", "finetuning.mode=prompt"),
        files=files("roberta"),
    ),
    case(
        "a prompt that begins as a text, and no text",
        "finetuning.init_text: must be a text with init text, got None",
        "mode: prompt, init: text",
    ),
    case(
        "a text to begin as, and another beginning",
        "finetuning.init_text: belongs to init text, got 'colours' with init vocab",
        "mode: prompt, init_text: colours",
    ),
    case(
        "a text to begin as that has no tokens",
        "finetuning.init_text: must have tokens in the model's tokenizer, got ' '",
        'mode: prompt, init: text, init_text: " "',
    ),
    case(
        "a hidden size for a prompt that nothing computes",
        "finetuning.hidden_size: belongs to mode p_tuning and prefix, got 8 with mode prompt",
        "mode: prompt, hidden_size: 8",
    ),
    case(
        "a hidden size for a prefix without projection",
        "finetuning.hidden_size: belongs to prefix_projection true in mode prefix, got 8 with prefix_projection false",
        "mode: prefix, hidden_size: 8",
        "tiny-decoder",
    ),
    case(
        "a prefix for an encoder",
        "finetuning.mode: prefix puts keys and values before the text's, which an encoder's attention mask leaves out",
        "mode: prefix",
    ),
    case(
        "a prompt for an encoder-decoder that classifies",
        "which T5ForSequenceClassification refuses (inputs_embeds)",
        "mode: prompt",
        "tiny-encoder-decoder",
    ),
    case(
        "a prefix with gradient checkpointing",
        "training.gradient_checkpointing: must be false in mode prefix, whose keys and values it leaves out, got true",
        "mode: prefix",
        "tiny-decoder",
        more=", gradient_checkpointing: true",
    ),
]
