"""The command line: names, paths and mappings that are mistyped or ambiguous."""

from tests.odd_inputs.case import CONFIG, Case, data

CASES = [
    Case(
        given="a mistyped name of a shipped config",
        says="config: no such file: quikstart.yaml (did you mean 'quickstart'?); shipped configs: atis_intents,",
        command=("run", "quikstart.yaml"),
    ),
    Case(
        given="a mistyped path beside a config of one's own",
        says="no such file: confg.yaml (did you mean 'config.yaml'?)",
        command=("check", "confg.yaml"),
        files=data(),
    ),
    Case(
        given="a path into a clone that is not here",
        says="the shipped one runs anywhere by its bare name: quickstart",
        command=("check", "configs/quickstart.yaml"),
    ),
    Case(
        given="a folder in place of a config",
        says="config: must be a file, got the folder 'data'",
        command=("check", "data"),
        files=data(),
    ),
    Case(
        given="the bare name of a shipped config, in an empty folder",
        says="quickstart: naive, model tiny",
        code=0,
        command=("check", "quickstart", "stream.train_rows=4"),
    ),
    Case(
        given="a mapping for `stream` on the command line: it replaces the file's, so that its `path` is gone",
        says="stream.path: is needed (a text)",
        command=("check", "config.yaml", "stream={name: files, labels_per_stage: 2}"),
        files=data(),
    ),
    Case(
        given="a mapping for `stream` without a name",
        says="stream: a mapping replaces the whole section, so it must have a name, got {'overlap': 'drop'}; single "
        "keys are set by stream.overlap=...",
        command=("check", "config.yaml", "stream={overlap: drop}"),
        files=data(),
    ),
    Case(
        given="a mapping for `model` without a name: no other model trains unasked",
        says="model: a mapping replaces the whole section, so it must have a name",
        command=("check", "config.yaml", "model={dropout: 0.1}"),
        files=data(),
    ),
    Case(
        given="a mapping with a key that its section does not have",
        says="training.epoch: unknown key (did you mean 'epochs'?)",
        command=("check", "config.yaml", "training={epoch: 2}"),
        files=data(),
    ),
    Case(
        given="a setting without `=`",
        says="trainingepochs: an override is key=value, such as training.epochs=5",
        command=("check", "config.yaml", "trainingepochs"),
        files=data(),
    ),
    Case(
        given="`list` of what there is no list of",
        says="objectives, configs, templates, keys, got 'kyes' (did you mean 'keys'?)",
        command=("list", "kyes"),
    ),
    Case(
        given="`list keys` of a mistyped section",
        says="list keys: no key of a config is called 'trainig' (did you mean 'training'?)",
        command=("list", "keys", "trainig"),
    ),
    Case(
        given="`init` onto a file that exists",
        says="init: must not overwrite a file, got 'quickstart.yaml', which exists",
        command=("init", "quickstart"),
        files={"quickstart.yaml": CONFIG},
    ),
    Case(
        given="`init` of a config that is not shipped",
        says="init: no config is called 'quickstrat' (did you mean 'quickstart'?)",
        command=("init", "quickstrat"),
    ),
]
