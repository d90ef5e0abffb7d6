"""Settings of single stages."""

from tests.odd_inputs.case import CONFIG, Case, data


def case(given: str, says: str, *overrides: str, code: int = 2, config: str = CONFIG) -> Case:
    return Case(given, says, code, ("check", "config.yaml", *overrides), data(config=config))


CASES = [
    case(
        "settings for a stage that does not exist, by index",
        "training.stages.2: no stage has this name; allowed: labels-01, labels-02, or an index from 0 to 1",
        "training.stages.2.epochs=3",
    ),
    case(
        "settings for a stage whose name is mistyped",
        "training.stages.label-02: no stage has this name (did you mean 'labels-02'?)",
        "training.stages.label-02.epochs=3",
    ),
    case(
        "settings for a stage counted from the end",
        "training.stages.-1: no stage has this name",
        "training.stages.-1.epochs=3",
    ),
    case(
        "a setting that no stage can have of its own",
        "training.stages.0.weight_decay: unknown key; allowed: epochs, steps, learning_rate, batch_size, patience",
        "training.stages.0.weight_decay=0",
    ),
    case(
        "a value out of bounds in a stage's settings",
        "training.stages.0.batch_size: must be at least 1, got 0",
        "training.stages.0.batch_size=0",
    ),
    case(
        "epochs and steps for one stage",
        "training.stages.0: must have epochs or steps, which replaces epochs",
        "training.stages={0: {epochs: 2, steps: 9}}",
    ),
    case(
        "a number in place of a stage's settings",
        "training.stages.0: must be a mapping of epochs, steps, learning_rate, batch_size, patience, got 3",
        "training.stages.0=3",
    ),
    case(
        "one stage by name and by index",
        "training.stages.labels-02: must be the only key of stage 'labels-02', which '1' names, too",
        "training.stages={1: {epochs: 2}, labels-02: {steps: 9}}",
    ),
    case(
        "settings for the first stage of a joint run",
        "training.stages.0: must be 'labels-02', the one stage in which a joint run trains, got '0'",
        "training.stages.0.steps=3",
        "strategies=[joint]",
    ),
    case(
        "a second epoch for a stage of an online stream",
        "training.stages.1.epochs: must be 1 where stream.scenario is online, got 2",
        "training={epochs: 1, stages: {1: {epochs: 2}}}",
        "stream.scenario=online",
        "stream.chunk_rows=8",
    ),
    case(
        "an index in the file and one on the command line",
        "good to run",
        "training.stages.1.steps=5",
        code=0,
        config=CONFIG.replace("max_length: 32", "max_length: 32, stages: {1: {epochs: 2}, 0: {}}").replace(
            "epochs: 2", "learning_rate: 1"
        ),
    ),
]
