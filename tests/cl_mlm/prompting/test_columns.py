"""What is refused before anything is trained, and what a row may be given."""

import pytest
from datasets import Dataset

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare
from cl_mlm.stream import Stage, Stream

GOOD = {"template": "{{ text }} is"}


@pytest.fixture
def ready(fast):
    """Prepares a run of `tiny-decoder` over texts, prompted on the small set of four labels."""

    def ready(prompting, *, stream=None, **data):
        config = {**fast, "model": "tiny-decoder", "stream": {**fast["stream"], "as_text": True}}
        section = {"data": {**fast["stream"], **data}, **GOOD, **prompting}
        if stream is not None:
            section.pop("data")
        found = load_config({**config, "prompting": section}, needs_stream=stream is None)
        return prepare(found, stream)

    return ready


@pytest.mark.parametrize(
    ("prompting", "message"),
    [
        ({"max_length": 100_000}, "prompting.max_length: must be at most the model's 1024, got 100000"),
        (
            {"template": "{{ txt }}"},
            r"prompting.template: txt: no such field in column 'labels-01' \(did you mean 'text'",
        ),
        ({"template": "{{ text"}, "prompting.template: must be a jinja2 template"),
        ({"template": None}, "prompting.template: must be a template, got null"),
        ({"template": "{{ text }} {{ mask }}"}, "prompting.template: mask: is for masked models"),
        ({"verbaliser": {"cold": "a", "hot": "b", "loud": "c"}}, "must have words for every label, none for 'quiet'"),
        (
            {"verbaliser": {"cold": "a", "hot": "a", "loud": "c", "quiet": "d"}},
            "two labels must not have the same words, got 'a' for 'cold', 'hot'",
        ),
        ({"shots": [17]}, "prompting.shots: must be at most the 16 training rows of column 'labels-01', got 17"),
        (
            {"shots": [9], "per_class": True},
            "at most the 8 training rows of label 'cold' in column 'labels-01', got 9 per",
        ),
        ({"shots": []}, r"prompting.shots: must name each number of demonstrations once, got \[\]"),
        ({"shots": [0, 0]}, r"prompting.shots: must name each number of demonstrations once, got \[0, 0\]"),
        ({"shots": [-1]}, "prompting.shots: must be at least 0, got -1"),
        ({"normalise": "words"}, "prompting.normalise: must be one of none, tokens, bytes, got 'words'"),
        ({"max_rows": 0}, "prompting.max_rows: must be at least 1, got 0"),
        ({"temlate": "x"}, r"prompting.temlate: unknown key \(did you mean 'template'\?\)"),
        (
            {"templates": {"label-01": "x"}},
            r"prompting.templates.label-01: no column or task is called so \(did you mean",
        ),
        ({"template": None, "templates": {"labels-01": "x"}}, "prompting.templates: none for column 'labels-02'"),
        ({"data": "nothing"}, "prompting.data.name: no stream is called 'nothing'"),
        ({"data": {"name": "files"}}, "prompting.data.path: is needed"),
        ({"template": "{{ text.nothing }}"}, "prompting.template: fails on row 0 of test of 'labels-01'"),
    ],
)
def test_faults_are_told_before_anything_is_trained(ready, prompting, message):
    with pytest.raises((cl_mlm.ConfigError, cl_mlm.DataError), match=message):
        ready(prompting)


def test_faults_are_told_together(ready):
    with pytest.raises(cl_mlm.ConfigError) as error:
        ready({"template": "{{ txt }}", "verbaliser": {"cold": "a"}})
    assert len(error.value.problems) == 3


def test_faults_of_the_data_are_told_under_their_key(ready):
    with pytest.raises(cl_mlm.ConfigError, match=r"prompting.data.labels_per_stage: must divide 4"):
        ready({}, labels_per_stage=3)


def test_a_classifier_is_refused_with_the_reason(fast):
    with pytest.raises(cl_mlm.ConfigError, match="objective classification trains a sequence head; must be null there"):
        prepare(load_config({**fast, "prompting": GOOD}))


def test_a_stream_without_answers_cannot_be_asked(fast):
    rows = Dataset.from_dict({"text": ["a", "b"]})
    other = Dataset.from_dict({"text": ["c"]})
    last = Dataset.from_dict({"text": ["d"]})
    stage = Stage("texts", rows, other, last, (), "lm", "language_modelling", {})
    config = load_config({**fast, "model": "tiny-decoder", "prompting": GOOD}, needs_stream=False)
    with pytest.raises(
        cl_mlm.ConfigError, match=r"not for objective language_modelling of column 'texts'; prompting.data"
    ):
        prepare(config, Stream("texts", (stage,), "domain_incremental"))


@pytest.mark.parametrize(
    ("scenario", "first", "second"),
    [
        ("class_incremental", ["cold", "hot"], ["cold", "hot", "loud", "quiet"]),
        ("task_incremental", ["cold", "hot"], ["loud", "quiet"]),
    ],
)
def test_the_scenario_says_which_labels_a_row_may_be_given(ready, scenario, first, second):
    found = ready({}, scenario=scenario).prompting
    assert [found.labels(column, -1) for column in found.columns] == [first, second]
    # A set that is not trained on asks the same at every moment.
    assert [found.labels(column, 1) for column in found.columns] == [first, second]


def test_demonstrations_are_training_rows_and_the_same_for_every_row(ready):
    found = ready(
        {"shots": [2], "per_class": True, "template": "{{ text }} of {{ choices | length }}\nIt is"}
    ).prompting
    column = found.columns[0]
    prompts = found.prompts(column, 2, found.labels(column, -1), found.positions(column))
    assert len(prompts) == 12
    shown = {prompt.rpartition("\n\n")[0] for prompt in prompts}
    assert len(shown) == 1
    parts = shown.pop().split("\n\n")
    assert sorted(part.rpartition(" ")[2] for part in parts) == ["cold", "cold", "hot", "hot"]
    assert all("first of 2" in part for part in parts)
    assert all("third of 2\nIt is" in prompt.rpartition("\n\n")[2] for prompt in prompts)


def test_rows_are_drawn_and_templates_may_differ(ready):
    found = ready({"max_rows": 5, "templates": {"labels-02": "Second: {{ text }}"}}).prompting
    assert [len(found.positions(column)) for column in found.columns] == [5, 5]
    assert found.positions(found.columns[0]) == sorted(set(found.positions(found.columns[0])))
    assert [column.template.key for column in found.columns] == ["prompting.template", "prompting.templates.labels-02"]


def test_labels_that_yaml_reads_as_numbers_are_texts(fast, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("prompting: {template: x, verbaliser: {0: no way, 1: of course}}")
    found = load_config(path, [{"stream": fast["stream"]}])
    assert found.prompting.verbaliser == {"0": "no way", "1": "of course"}


def test_a_run_without_prompts_keeps_its_name(fast):
    found = load_config(fast)
    assert "prompting" not in found.to_dict()
    assert found.run_name == load_config({**fast, "prompting": None}).run_name


def test_a_smoke_run_shows_what_there_is(fast):
    data = {**fast["stream"]}
    config = {**fast, "model": "tiny-decoder", "stream": {**data, "as_text": True}, "limit": 3}
    found = prepare(load_config({**config, "prompting": {**GOOD, "shots": [8], "data": data}})).prompting
    assert len(found.prompts(found.columns[0], 8, ["cold", "hot"], [0])[0].split("\n\n")) == 4
