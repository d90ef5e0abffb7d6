"""Rows that are to run packed."""

from tests.odd_inputs.case import CONFIG, Case, Files, data

PAIRS = "source,target\n" + "".join(f"what is {i},number {i}\n" for i in range(20))
WRITES = "stream: {name: files, path: data, stages_by: whole, objective: text_to_text}"
READS = "stream: {name: files, path: data, stages_by: whole, objective: language_modelling, options: OPTIONS}"
CLASSES = "stream: {name: files, path: data, labels_per_stage: 2, order_seed: null}"
TEXTS = "text\n" + "".join(f"a red thing {i}\n" for i in range(20))


def files(model: str, stream: str = CLASSES, rows: str | None = None) -> Files:
    config = CONFIG.replace(CLASSES, stream).replace("name: tiny}", f"name: {model}}}")
    if rows is None:
        return data(config=config)
    return data(rows, rows.replace("is ", "was ").replace("a red", "a blue"), config)


def case(given: str, says: str, of: Files, *overrides: str, code: int = 2) -> Case:
    return Case(given, says, code, ("check", "config.yaml", "training.pack=true", *overrides), of)


CASES = [
    case(
        "packed rows for an encoder",
        "training.pack: must be false for objective classification on a model of the form sequence: rows run packed",
        files("tiny"),
    ),
    case(
        "packed rows for a decoder with a head over classes",
        "training.pack: must be false for objective classification",
        files("tiny-decoder"),
    ),
    case(
        "packed rows for an encoder-decoder",
        "training.pack: must be false for objective text_to_text on an encoder-decoder",
        files("tiny-encoder-decoder", WRITES, PAIRS),
    ),
    case(
        "packed rows of blocks that are full",
        "training.pack: must be false for objective language_modelling with stream.options.pack, whose blocks are full",
        files("tiny-decoder", READS.replace("OPTIONS", "{pack: true}"), TEXTS),
    ),
    case(
        "packed rows with masked tokens",
        "training.pack: must be false for objective language_modelling on a model of the form masked",
        files("tiny", READS.replace("OPTIONS", "{kind: masked}"), TEXTS),
    ),
    case("packed rows for a decoder that writes", "good to run", files("tiny-decoder", WRITES, PAIRS), code=0),
    Case(
        "a word in place of packing on or off",
        "training.pack: must be true or false, got 'auto'",
        command=("check", "config.yaml", "training.pack=auto"),
        files=data(),
    ),
]
