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
    Case(
        given="a fault in each of two arms, where neither is asked for",
        says="2 errors: arm a: strategies.replay.capacty: unknown key",
        files=data(
            config=CONFIG + "arms: {a: {strategies: {replay: {capacty: 9}}}, b: {strategies: {lwf: {weigth: 1}}}}\n"
        ),
    ),
    Case(
        given="a fault that all arms have",
        says="error: training.epoch: unknown key (did you mean 'epochs'?)",
        command=("check", "config.yaml", "--arm", "all", "training.epoch=1"),
        files=data(config=CONFIG + "arms: {a: {}, b: {strategies: {lwf: {}}}}\n"),
    ),
    Case(
        given="a file of rows in place of a config",
        says="must be a YAML file of settings, got the data file 'data/train.csv'; `cl-mlm init own_data`",
        command=("check", "data/train.csv"),
        files=data(),
    ),
    Case(given="sound files", says="good to run", code=0, files=data()),
]
