"""Strategies, objectives and streams of one's own that raise, or return what they must not."""

from tests.odd_inputs.case import CONFIG, Case, data

HEAD = "from cl_mlm.strategy import Strategy\n\n\nclass Mine(Strategy):\n"
STRATEGY = CONFIG + "strategies: {mine.Mine: {}}\n"
RUN = ("run", "config.yaml")


def mine(body: str) -> dict:
    """Returns the files of a run with a strategy of this body."""
    return {**data(config=STRATEGY), "mine.py": HEAD + "\n".join(f"    {line}" for line in body.split("\n")) + "\n"}


def stream(body: str) -> dict:
    """Returns the files of a run on a stream of this function."""
    config = CONFIG.replace("{name: files, path: data, labels_per_stage: 2, order_seed: null}", "{name: mine.rows}")
    return {"config.yaml": config, "mine.py": f"def rows():\n    {body}\n"}


CASES = [
    Case(
        given="a strategy whose constructor raises",
        says="strategy mine.Mine, __init__: raised ValueError: no",
        files=mine('def __init__(self):\n    raise ValueError("no")'),
    ),
    Case(
        given="a strategy's `validate` that returns one text",
        says="strategy mine.Mine, hook validate: must be a list of texts, empty where all is good, got 'bad' (str)",
        files=mine('def validate(self):\n    return "bad"'),
    ),
    Case(
        given="a hook that lacks an argument",
        says="strategies.mine.loss_terms: must take (run, batch, outputs), got (run, batch)",
        files=mine("def loss_terms(self, run, batch):\n    return {}"),
    ),
    Case(
        given="a hook with `async`",
        says="strategies.mine.after_step: must be an ordinary function, got one with `async`, which nobody awaits",
        files=mine("async def after_step(self, run):\n    pass"),
    ),
    Case(
        given="a strategy that keeps a state and never reads it",
        says="strategies.mine: has state_dict without load_state_dict, so that a resumed run would lose its state",
        files=mine("def state_dict(self):\n    return {}"),
    ),
    Case(
        given="a strategy with a regime that there is not",
        says="strategies.mine: regime must be one of sequential, cumulative, joint, got 'online'",
        files=mine('regime = "online"'),
    ),
    Case(
        given="a strategy whose `needs` is a text",
        says="strategies.mine: needs must be a set of texts, got 'old_rows'",
        files=mine('needs = "old_rows"'),
    ),
    Case(
        given="a strategy that does not keep its argument",
        says="Mine must keep its arguments ['weight'] as attributes of the same names",
        files=mine("def __init__(self, weight: float = 1.0):\n    pass"),
    ),
    Case(
        given="a hook that raises in training",
        says="strategy mine.Mine, hook after_step, stage 'labels-01', step 1: raised KeyError: 'x'",
        command=RUN,
        files=mine('def after_step(self, run):\n    {}["x"]'),
    ),
    Case(
        given="a hook that calls `sys.exit(0)`",
        says="strategy mine.Mine, hook before_stage, stage 'labels-01': raised SystemExit: 0",
        command=RUN,
        files=mine("def before_stage(self, run, stage):\n    raise SystemExit(0)"),
    ),
    Case(
        given="a module of one's own that ends the process while it is imported",
        says="mine.py:1: SystemExit: 0",
        files={**data(config=STRATEGY), "mine.py": "raise SystemExit(0)\n"},
    ),
    Case(
        given="a stream function that raises",
        says="stream mine.rows: raised KeyError: 'train'",
        files=stream('return {}["train"]'),
    ),
    Case(
        given="a stream function with `yield`",
        says="stream.name: 'mine.rows' must return a Stream, got generator",
        files=stream("yield 1"),
    ),
]
