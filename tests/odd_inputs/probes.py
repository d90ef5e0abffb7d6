"""Answers that a model cannot be held to, and probes that cannot be measured."""

from tests.odd_inputs.case import CONFIG, Case, Files, data

WRITING = CONFIG.replace("{name: tiny}", "{name: tiny-decoder}").replace(
    "labels_per_stage: 2,", "labels_per_stage: 2, as_text: true,"
)
TEXTS = "source,target\n" + "".join(f"a {word} {i},{word}\n" for word in ("red", "redish", "blue") for i in range(8))
ANSWERS = "stages_by: whole, objective: text_to_text, options: {OPTIONS}"


def closed(options: str, train: str = TEXTS) -> Files:
    """Returns texts of three answers, which are asked for with these options."""
    stream = ANSWERS.replace("OPTIONS", f"decode: constrained, {options}".rstrip(", "))
    config = WRITING.replace("labels_per_stage: 2, as_text: true, order_seed: null", stream)
    return data(train, train.replace("\na ", "\nb "), config)


def probed(probes: str, config: str = WRITING) -> Files:
    """Returns four labels as texts, and a section `probes`."""
    return data(config=f"{config}probes: {probes}\n") | {"text.txt": "some text that is held out\n", "one.txt": "one\n"}


CASES = [
    Case(
        "`decode: constrained` without answers",
        "stream.options.decode: must be free where there are no answers to choose from, got constrained",
        files=closed(""),
    ),
    Case(
        "a way of decoding that there is not",
        "stream.options.decode: must be one of free, constrained, got 'beam'",
        files=data(config=WRITING.replace("as_text: true,", "as_text: true, text_options: {decode: beam},")),
    ),
    Case(
        "an answer longer than `max_new_tokens`, with `decode: constrained`",
        "stream.options.max_new_tokens: 'redish' has 3 tokens with the end token, got 2, so that it cannot be chosen",
        files=closed("answers: [red, redish, blue], max_new_tokens: 2"),
    ),
    Case(
        "an answer that begins like another, with `decode: constrained`",
        "good to run",
        code=0,
        files=closed("answers: [red, redish, blue]"),
    ),
    Case(
        "an answer with the end token inside, with `decode: constrained`",
        "stream.options.answers: 'red[SEP]' holds the token that ends a text, so that it cannot be chosen",
        files=closed("answers: [red, redish, blue, 'red[SEP]']"),
    ),
    Case(
        "`probes` with nothing to measure", "probes: must have kl or lm_eval, got neither", files=probed("{every: 2}")
    ),
    Case(
        "a probe that there is not",
        "probes.k1: unknown key; allowed: every, kl, lm_eval",
        files=probed("{k1: {}}"),
    ),
    Case(
        "divergence of a classifier",
        "probes: must be null where a model does not write or predict the next token, as with objective "
        "classification; got kl",
        files=probed("{kl: {}}", CONFIG),
    ),
    Case(
        "held-out text that is not there",
        "probes.kl.text: must be a UTF-8 file of text, got 'none.txt': [Errno 2] No such file",
        files=probed("{kl: {text: none.txt}}"),
    ),
    Case(
        "held-out text of one word",
        "probes.kl.text: must be a file of text, got 'one.txt', which has fewer than two words",
        files=probed("{kl: {text: one.txt}}"),
    ),
    Case(
        "held-out text for an encoder-decoder",
        "probes.kl.text: must be null for an encoder-decoder, which reads no text alone; got 'text.txt'",
        files=probed("{kl: {text: text.txt}}", WRITING.replace("tiny-decoder", "tiny-encoder-decoder")),
    ),
]
