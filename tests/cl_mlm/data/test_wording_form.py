"""`stream.template`: the columns of a row inside an instruction, and the answer beside it."""

from dataclasses import replace

import pytest
from datasets import Dataset

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.data.stream_building import build_stream
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.stream import Stage, Stream

ASK = "Which of {{ choices | join('/') }}? {{ text }}"


def built(stream, **section):
    return build_stream({"overlap": "keep", **section}, None, stream)[0]


def one(rows, objective, labels=(), **options):
    data = Dataset.from_dict(rows)
    stage = Stage("a", data, data, data, labels, objective=objective, task=objective, options=options)
    return Stream("s", (stage,), scenario="domain_incremental")


def test_source_is_the_filled_template_and_target_the_label(small_stream):
    made = built(small_stream, template=ASK)
    old = small_stream.stages[1].test
    assert made.stages[1].test["source"] == [f"Which of loud/quiet? {text}" for text in old["text"]]
    assert made.stages[1].test["target"] == old["label"]
    assert made.stages[0].options == {"answers": ["cold", "hot", "loud", "quiet"]}
    assert (made.stages[0].objective, made.stages[0].labels, made.scenario) == (
        "text_to_text",
        (),
        "domain_incremental",
    )
    assert made.notes[-1] == "instructions: as stream.template says; 4 labels are answers to be written"


def test_as_text_beside_a_template_changes_nothing(small_stream):
    assert built(small_stream, template=ASK, as_text=True).fingerprint == built(small_stream, template=ASK).fingerprint


def test_another_template_is_another_stream(small_stream):
    plain, other = built(small_stream, template="{{ text }}?"), built(small_stream, template="{{ text }}!")
    assert plain.fingerprint != other.fingerprint


def test_a_target_of_its_own_decides_the_answers(small_stream):
    made = built(small_stream, template={"source": "{{ text }}", "target": "It is {{ label | upper }}."})
    assert made.stages[0].train["target"][0] == f"It is {small_stream.stages[0].train['label'][0].upper()}."
    assert made.stages[0].options == {"answers": ["It is COLD.", "It is HOT.", "It is LOUD.", "It is QUIET."]}
    free = built(small_stream, template={"source": "{{ text }}", "target": "{{ label }} {{ text }}"})
    assert free.stages[0].options == {}


def test_stages_and_tasks_have_templates_of_their_own(small_stream):
    first, second = (stage.name for stage in small_stream.stages)
    templates = {second: {"source": "2: {{ text }}"}, "classification": "task: {{ text }}"}
    made = built(small_stream, templates=templates)
    texts = [stage.train["text"][0] for stage in small_stream.stages]
    assert [stage.train["source"][0] for stage in made.stages] == [f"task: {texts[0]}", f"2: {texts[1]}"]
    made = built(small_stream, template="all: {{ text }}", templates={first: "1: {{ text }}"})
    assert [stage.train["source"][0] for stage in made.stages] == [f"1: {texts[0]}", f"all: {texts[1]}"]


def test_options_of_the_texts_can_be_set(small_stream):
    made = built(small_stream, template=ASK, text_options={"separator": "", "max_new_tokens": 8})
    assert made.stages[0].options == {
        "answers": ["cold", "hot", "loud", "quiet"],
        "separator": "",
        "max_new_tokens": 8,
    }
    made = built(small_stream, as_text=True, text_options={"answers": None})
    assert made.stages[0].options == {"answers": None}


@pytest.mark.parametrize(
    ("stream", "template", "source", "target"),
    [
        (
            one({"text": ["a"], "text_pair": ["b"], "label": ["x_y"]}, "classification", ("x_y",)),
            "{{ text }}={{ text_pair }} {{ choices[0] }}",
            "a=b x y",
            "x_y",
        ),
        (
            one({"text": ["a"], "text_pair": ["b"], "label": ["x"]}, "classification", ("x",)),
            "ask {{ source }}",
            "ask a\nb",
            "x",
        ),
        (one({"source": ["a"], "target": ["b"]}, "text_to_text"), "sum: {{ source }}", "sum: a", "b"),
        (
            one(
                {"context": ["it is blue"], "question": ["how?"], "answers": [{"text": ["blue"], "answer_start": [6]}]},
                "question_answering",
            ),
            "{{ context }}. {{ question }}",
            "it is blue. how?",
            "blue",
        ),
        (
            one({"tokens": [["in", "Rome"]], "tags": [["O", "B-city"]]}, "tagging", ("city",)),
            "{{ labels[0] }} of: {{ tokens | join(' ') }}",
            "city of: in Rome",
            "city: Rome",
        ),
        (
            one({"text": ["good"], "value": [0.5]}, "regression"),
            {"source": "{{ text }}", "target": "{{ value * 10 }}"},
            "good",
            "5.0",
        ),
    ],
)
def test_rows_of_any_objective_become_texts(stream, template, source, target):
    row = built(stream, template=template).stages[0].test[0]
    assert (row["source"], row["target"]) == (source, target)


def test_the_gate_compares_what_rows_say_and_not_the_words_around_it(small_stream):
    first, second = small_stream.stages
    twice = replace(small_stream, stages=(first, replace(second, test=second.test.add_item(first.train[0]))))
    with pytest.raises(DataError, match="no input may occur in a validation or test split too"):
        built(twice, templates={first.name: "1 {{ text }}", second.name: "2 {{ text }}"}, overlap="error")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            {"template": "{{ txt }} {{ text }}"},
            r"^stream.template: txt: no such field in rows of 'stage 0' \(did you mean 'text'",
        ),
        ({"template": "{{ text"}, "^stream.template: must be a jinja2 template, got '{{ text'"),
        ({"template": {"source": "{{ text }}", "target": "{% if %}"}}, "^stream.template.target: must be a jinja2"),
        (
            {"template": "{{ text }} {{ label }}"},
            "stream.template: label: is the answer, which is not put into the question",
        ),
        ({"template": "Say {{ choices }}"}, r"^stream.template: must name a field of the row \(text, source\)"),
        ({"template": "o_lroa"}, r"^stream.template: must be a template.*got 'o_lroa' \(did you mean 'o_lora'"),
        ({"template": "o_lora"}, "^stream.template: o_lora has none for 'stage 0', but for yelp"),
        ({"templates": {"stage 0": "o_lora/yulp"}}, r"o_lora has no 'yulp' \(did you mean 'yelp'"),
        (
            {"templates": {"stage 1": "{{ text }}"}},
            "^stream.templates: none for 'stage 0', and stream.template is null",
        ),
        (
            {"template": ASK, "templates": {"stage 2": ASK}},
            r"^stream.templates.stage 2: no stage or task is called so \(did",
        ),
        (
            {"template": {"source": ASK, "target": "{{ label[-1] }}"}},
            "two labels must not be written alike, got 't' for 'hot' and 'quiet'",
        ),
    ],
)
def test_a_fault_of_a_template_is_told_with_its_key(small_stream, section, says):
    if "label[-1]" in str(section):
        first, second = small_stream.stages
        rows = Dataset.from_dict({"text": ["q"], "label": ["quiet"]})
        small_stream = replace(
            small_stream,
            stages=(replace(first, labels=("hot", "quiet"), **dict.fromkeys(("train", "validation", "test"), rows)),),
        )
        assert second
    with pytest.raises((ConfigError, DataError), match=says):
        built(small_stream, **section)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"source": "{{ text }}", "target": "{{ text[0:0] }}"}, "^stream.template.target: must not give an empty text"),
        ({"source": "{{ text.nothing }}"}, "^stream.template.source: fails on row 0 of train of 'stage 0'"),
        ("{{ 1 // (text | length - text | length) }}", "ZeroDivisionError"),
    ],
)
def test_rows_on_which_a_template_fails_or_is_empty_are_counted(small_stream, template, says):
    with pytest.raises(DataError, match=says) as caught:
        built(small_stream, template=template)
    assert len(caught.value.problems) == 6
    assert caught.value.problems[0].endswith(f"({len(small_stream.stages[0].train)} such rows)")


def test_rows_of_one_label_may_begin_as_text(small_stream):
    rows = Dataset.from_dict({"text": ["q"], "label": ["hot"]})
    first = replace(small_stream.stages[0], labels=("hot",), train=rows, validation=rows, test=rows)
    assert built(replace(small_stream, stages=(first,)), template=ASK).stages[0].train["source"] == ["Which of hot? q"]


def test_a_stream_that_confines_rows_to_their_stage_is_refused(small_stream):
    with pytest.raises(ConfigError, match=r"^stream\.template: must be null where stream.scenario is task_incremental"):
        built(replace(small_stream, scenario="task_incremental"), template=ASK)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"template": 3}, "^stream.template: must be a template, the name of a shipped one, or {source"),
        ({"template": {"target": "x"}}, "^stream.template: must be a template"),
        ({"templates": ["x"]}, "^stream.templates: must map names"),
        ({"text_options": {"chat": True}}, "^stream.text_options: needs stream.as_text or stream.template"),
        ({"template": ASK, "text_options": {"chatt": 1}}, "^stream.options.chatt: no option of objective text_to_text"),
    ],
)
def test_a_wrong_shape_is_refused(fast, section, says):
    fast["stream"] |= section
    fast["model"] = {"name": "tiny-decoder"}
    with pytest.raises(ConfigError, match=says):
        prepare(load_config(fast))


def test_settings_without_a_template_stay_what_they_were(fast):
    plain = load_config(fast)
    fast["stream"] |= {"template": None, "templates": {}, "text_options": {}}
    assert load_config(fast).run_name == plain.run_name


@pytest.mark.parametrize("kind", ["tiny-decoder", "tiny-encoder-decoder"])
def test_a_model_learns_to_write_labels_under_an_instruction(fast, kind):
    fast["stream"] |= {"template": "{{ text }} is:", "first_stages": 1, "text_options": {"separator": " "}}
    fast["model"] = {"name": kind, "dropout": 0.0}
    fast["training"] |= {"epochs": 12, "learning_rate": 3e-3}
    assert cl_mlm.run(fast, progress=False).summary["accuracy_matrix"][0][0] > 0.9
