"""`cl-mlm list keys` holds the arguments of every stream, strategy and objective, each with its help."""

import inspect

import pytest

from cl_mlm.config.components import COMPONENT_PACKAGES, find, names, parameters
from cl_mlm.config.key_reference import argument_helps, component_keys, keys

SHIPPED = [(kind, name) for kind in COMPONENT_PACKAGES for name in names(kind)]


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_argument_of_a_shipped_component_is_listed_with_its_help(kind, name):
    component = find(kind, name)
    found = component_keys(kind, name)
    assert [key.path.rpartition(".")[2] for key in found] == [*parameters(component)]
    assert [key.path for key in found if not key.help or not key.allowed] == []
    # A help text that names no argument is of one that was renamed.
    assert {*argument_helps(inspect.getdoc(component))} == {*parameters(component)}


def test_no_component_is_called_as_another_or_as_a_section():
    components = [name for _, name in SHIPPED]
    assert len({*components}) == len(components)
    assert not {*components} & {word for key in keys() for word in (key.path, key.path.partition(".")[0])}


def test_the_arguments_of_a_stream_are_listed_with_default_type_and_help(cli):
    said = cli("list", "keys", "files")
    assert said.code == 0
    assert said.out.startswith("stream.path: needed\n    the folder or file, as given or inside `CL_MLM_DATA`. ")
    assert "stream.delimiter: null\n    what separates the columns of CSV and its kin, such as `;`; null: " in said.out
    assert "is told from the first lines (a text or null)\n" in said.out
    for argument in ("columns", "encoding", "missing", "test_fraction", "uneven", "labels_per_stage", "stages", "rows"):
        assert f"\nstream.{argument}: " in said.out


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ("replay", "strategies.replay.capacity: 200\n    rows kept, over all stages (a whole number)\n"),
        ("tagging", "stream.options.ill_formed: refuse\n    what to do with an `I-x` that follows neither `B-x` nor"),
        ("naive", "naive: takes no arguments\n"),
        ("relation", "relation: takes no arguments\n"),
        ("strategies.lwf", "strategies.lwf.temperature: 2.0\n"),
        ("strategies.replay.capacity", "strategies.replay.capacity: 200\n"),
        ("capacity", "strategies.replay.capacity: 200\n"),
        ("stream.test_fraction", "evenly over labels, before validation rows are carved; null: 0.2 of one file"),
        ("stream.options.threshold", "; with objective multilabel (a number)\n"),
    ],
)
def test_a_component_and_an_argument_are_found_by_name_and_path(cli, part, shown):
    said = cli("list", "keys", part)
    assert said.code == 0
    assert shown in said.out


def test_an_argument_of_several_streams_says_whose_it_is(cli):
    out = cli("list", "keys", "labels_per_stage").out
    for stream in ("clinc150", "files", "hub", "phrasebook", "pipeline"):
        assert f"; with stream {stream} (" in out


def test_a_mistyped_component_gives_the_nearest(cli):
    said = cli("list", "keys", "fiels")
    assert said.code == 2
    assert "did you mean 'files'?" in said.err


@pytest.mark.parametrize("part", [(), ("stream",)])
def test_the_keys_of_any_config_end_with_whose_arguments_are_keys_too(cli, part):
    last = cli("list", "keys", *part).out.partition("cl-mlm list keys NAME\n")[2]
    assert "  streams: avalanche, clinc150, files" in last
    assert "text_to_text\n" in last
    assert ("strategies: " in last) == (part == ())


def test_the_lists_of_components_say_where_their_arguments_are_explained(cli):
    assert cli("list", "streams").out.endswith("What the arguments mean: cl-mlm list keys NAME\n")
    assert cli("list", "strategies", "ewc").out.endswith("What the arguments mean: cl-mlm list keys ewc\n")


def test_help_texts_are_read_from_a_docstring_in_google_style():
    text = """Does it.

    It has Args: of its own.

    Args:
        first: one line.
        second (int): two
            lines: both.

        **others: `a: b`.

    Raises:
        ValueError: never.
    """
    helps = {"first": "one line", "second": "two lines: both", "others": "`a: b`"}
    assert argument_helps(inspect.cleandoc(text)) == helps
    assert argument_helps("Does it.\n\nReturns: nothing.") == {}


@pytest.mark.parametrize("part", ["files", "text_to_text", "ewc"])
@pytest.mark.parametrize("width", [60, 43])
def test_help_texts_fit_a_narrow_terminal(cli, monkeypatch, part, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, cli("list", "keys", part).out.splitlines())) <= width
