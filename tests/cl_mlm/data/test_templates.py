"""Templates: what they see, what they may not do, what is told."""

import re

import pytest

from cl_mlm.data.templates import Template
from cl_mlm.errors import ConfigError, DataError

COLUMNS = ["text", "label", "domain"]
GIVEN = {"labels": ["a"], "choices": ["A"], "mask": "\ue000"}


def render(text, row=None):
    return Template(text, "prompting.template").render(row or {"text": "hi", "label": "a"}, GIVEN, "row 0")


def test_a_template_sees_columns_and_choices():
    assert render("{{ text }} ({{ choices | join(', ') }})\n") == "hi (A)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{{ txt }}",
            r"prompting.template: txt: no such field in stage 's' \(did you mean 'text'\?\); allowed: text, dom",
        ),
        ("{{ label }}", "label: is the answer, which is put behind the prompt in stage 's'"),
        ("{{ mask }}", "mask: is for masked models"),
    ],
)
def test_unknown_fields_are_named(text, message):
    (fault,) = Template(text, "prompting.template").faults(COLUMNS, "stage 's'", is_cloze=False)
    assert re.search(message, fault)


def test_a_cloze_needs_its_gap():
    template = Template("{{ text }}", "prompting.template")
    assert "must hold {{ mask }}" in template.faults(COLUMNS, "stage 's'", is_cloze=True)[0]
    assert Template("{{ text }} {{ mask }}", "k").faults(COLUMNS, "stage 's'", is_cloze=True) == []


@pytest.mark.parametrize("text", ["{{ text", "{% if %}", "{% for x in y %}"])
def test_what_is_no_template_is_refused_with_its_line(text):
    with pytest.raises(ConfigError, match=r"prompting.template: must be a jinja2 template, got .* in line 1"):
        Template(text, "prompting.template")


@pytest.mark.parametrize(
    "text",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ labels.append('b') }}",
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ labels.__init__.__globals__ }}",
        "{{ missing }}",
        "{{ '{0.__class__}'.format(text) }}",
    ],
)
def test_the_sandbox_holds(text):
    with pytest.raises(DataError, match=r"prompting.template: fails on row 0"):
        render(text)


def test_the_answer_cannot_be_read():
    with pytest.raises(DataError, match="'label' is undefined"):
        render("{{ label }}")
