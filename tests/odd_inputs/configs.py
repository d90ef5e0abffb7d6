"""Config files and keys."""

from tests.odd_inputs.case import CONFIG, Case, data

CASES = [
    Case(
        given="a key that does not exist",
        says="trainning: unknown key (did you mean 'training'?)",
        files=data(config=CONFIG.replace("training:", "trainning:")),
    ),
    Case(
        given="a value of another type",
        says="training.epochs: must be a whole number, got 'three'",
        command=("check", "config.yaml", "training.epochs=three"),
        files=data(),
    ),
    Case(given="sound files", says="good to run", code=0, files=data()),
]
