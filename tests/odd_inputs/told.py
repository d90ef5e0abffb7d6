"""The terminal and paths: characters that no text has, names that a shell reads otherwise."""

from tests.odd_inputs.case import CONFIG, Case, data

CASES = [
    Case(
        given="a config whose name has blanks, quotes and bytes that are no text",
        says="good to run",
        code=0,
        command=("check", "fö ö\udcff'\"x.yaml"),
        files={**data(), "fö ö\udcff'\"x.yaml": CONFIG},
    ),
    Case(
        given="a config whose name begins with a dash, behind `--`",
        says="good to run",
        code=0,
        command=("check", "--", "-c.yaml"),
        files={**data(), "-c.yaml": CONFIG},
    ),
    Case(
        given="a config whose name begins with a dash",
        says="No such option: -c",
        command=("check", "-c.yaml"),
        files={**data(), "-c.yaml": CONFIG},
    ),
    Case(
        given="a config whose name holds a line break, that is not there",
        says="config: no such file: a b.yaml",
        command=("check", "a\nb.yaml"),
        files=data(),
    ),
    Case(
        given="a data folder whose name has bytes that are no text",
        says="good to run",
        code=0,
        command=("check", "config.yaml", "stream.path=d\udcff"),
        files={**data(), **{name.replace("data/", "d\udcff/"): text for name, text in data().items()}},
    ),
    Case(
        given="a data folder whose name has bytes that are no text, in a config: YAML writes them as escapes",
        says="good to run",
        code=0,
        files={
            **{name.replace("data/", "d\udcff/"): text for name, text in data().items()},
            "config.yaml": CONFIG.replace("path: data", 'path: "d\\udcff"'),
        },
    ),
    Case(
        given="an `output` with a line break and a quote",
        says="good to run",
        code=0,
        command=("check", "config.yaml", 'output="a\\nb\'"'),
        files=data(),
    ),
    Case(
        given="a run folder whose name has bytes that are no text, without a run",
        says=": holds no run (no config.yaml)",
        command=("predict", "r\udcff", "a text"),
        files={"r\udcff/x": ""},
    ),
    Case(
        given="an unknown option",
        says="No such option: --limt (Possible options: --limit)",
        command=("check", "config.yaml", "--limt", "3"),
        files=data(),
    ),
]
