"""Rows longer than a model can read are refused before its weights are loaded; null takes the model's own length."""

import json
import re
import shutil

import pytest

import cl_mlm
from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.preparation import prepare

PROMPT = {"template": "{{ text }} is", "verbaliser": {"red": "a", "blue": "b"}}


@pytest.fixture
def settings(fast, stream_of, model_folder):
    """A config of two steps on one of the small models: `settings("tagging", "roberta", num_words=200)`."""

    def make(kind, model, num_words=200, max_length=256, options=None, **more):
        section = stream_of(kind, num_words, **(options or {}))
        name = model if model.startswith("tiny") else model_folder(model)
        training = fast["training"] | {"epochs": 1, "steps": 2, "max_length": max_length}
        return fast | {"stream": section, "model": {"name": name}, "training": training, **more}

    return make


def faults(config):
    with pytest.raises(ConfigError) as caught:
        prepare(load_config(config))
    return caught.value.problems


ENCODER_KINDS = ("classification", "pairs", "multilabel", "regression", "relation", "tagging", "question_answering")


@pytest.mark.parametrize("kind", ENCODER_KINDS)
@pytest.mark.parametrize(("model", "limit"), [("roberta", 139), ("bert", 140), ("gpt2", 140)])
def test_rows_longer_than_the_positions_are_refused_and_run_at_the_limit(kind, model, limit, settings):
    options = {"stride": 16} if kind == "question_answering" else {}
    (fault,) = faults(settings(kind, model, options=options))
    rule = f"training.max_length: must be at most {limit}, the tokens that this model can read, or null: "
    assert fault.startswith(rule)
    assert "14 of 14 rows have more, up to" in fault
    assert fault.endswith("got 256")
    if model == "roberta":
        assert cl_mlm.run(settings(kind, model, max_length=limit, options=options), progress=False).is_new


def test_short_rows_run_however_large_the_number_is(settings):
    assert cl_mlm.run(settings("classification", "roberta", num_words=6), progress=False).is_new


def test_only_rows_that_are_read_count(settings, tmp_path):
    config = settings("classification", "roberta", num_words=6)
    folder = shutil.copytree(config["stream"]["path"], tmp_path / "data")
    long = [{"text": f"{i} " + "word " * 200, "label": "red"} for i in range(2)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in long))
    config["stream"]["path"] = str(folder)
    (fault,) = faults(config)
    assert "2 of 14 rows have more" in fault
    assert prepare(load_config(config | {"evaluation": {"splits": ["test"]}}))
    stops = config["training"] | {"patience": 1}
    assert "2 of 14" in faults(config | {"evaluation": {"splits": ["test"]}, "training": stops})[0]


@pytest.mark.parametrize("options", [{"kind": "causal"}, {"kind": "causal", "pack": True}])
def test_texts_and_blocks_of_a_decoder_are_refused(options, settings):
    (fault,) = faults(settings("language_modelling", "gpt2", options=options))
    assert fault.startswith("training.max_length: must be at most 140")


def test_masked_texts_are_refused(settings):
    (fault,) = faults(settings("language_modelling", "roberta", options={"kind": "masked"}))
    assert fault.startswith("training.max_length: must be at most 139")


def test_a_decoder_needs_room_for_separator_and_answer(settings):
    options = {"separator": "xyz", "max_new_tokens": 21}  # a token, and 20 of the answer that are read again
    (fault,) = faults(settings("text_to_text", "gpt2", options=options))
    assert fault.startswith("training.max_length: must be at most 118, or null: this model can read 140 tokens, of ")
    assert cl_mlm.run(settings("text_to_text", "gpt2", max_length=118, options=options), progress=False).is_new
    assert prepare(load_config(settings("text_to_text", "gpt2", max_length=None, options=options))).config.training


def test_targets_of_a_decoder_count_in_training(settings):
    options = {"separator": "xyz", "max_new_tokens": 5, "max_target_length": 40}
    config = settings("text_to_text", "gpt2", num_words=6, max_length=128, options=options)
    assert prepare(load_config(config))  # the targets are short


@pytest.mark.parametrize(
    ("options", "max_length", "fault"),
    [
        ({"max_new_tokens": 20}, 256, "training.max_length: must be at most 140, the tokens that this model can read"),
        (
            {"max_new_tokens": 141},
            140,
            "stream.options.max_new_tokens: must be at most 140, which this model's decoder can write, got 141",
        ),
    ],
)
def test_both_halves_of_an_encoder_decoder_have_limits(options, max_length, fault, settings):
    assert faults(settings("text_to_text", "bart", max_length=max_length, options=options))[0].startswith(fault)


def test_targets_longer_than_the_decoder_are_refused(settings, tmp_path):
    config = settings("text_to_text", "bart", options={"max_new_tokens": 20, "max_target_length": 200}, max_length=64)
    for split in ("train", "validation", "test"):
        line = {"source": f"a {split}", "target": "a " * 160}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    (fault,) = faults(config | {"stream": config["stream"] | {"path": str(tmp_path)}})
    assert fault.startswith("stream.options.max_target_length: must be at most 140, the tokens that this model's deco")
    assert fault.endswith("1 of 1 training rows have more, up to 161")


def test_the_decoder_of_an_encoder_decoder_runs_at_its_limit(settings):
    config = settings("text_to_text", "bart", max_length=140, options={"max_new_tokens": 140})
    assert cl_mlm.run(config, progress=False).is_new


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_models_without_a_table_of_positions_read_any_row(model, settings):
    assert prepare(load_config(settings("classification", model)))


@pytest.mark.parametrize(
    ("kind", "model", "options", "length"),
    [
        ("classification", "roberta", {}, 139),
        ("classification", "tiny", {}, 512),
        ("language_modelling", "gpt2", {"pack": True}, 140),
        ("text_to_text", "gpt2", {"separator": "xyz", "max_new_tokens": 21}, 119 - 1),
        ("text_to_text", "bart", {"max_new_tokens": 20}, 140),
        ("tagging", "llama", {}, 512),  # its tokenizer's
    ],
)
def test_null_is_the_models_own_length_and_stands_in_the_run(kind, model, options, length, settings):
    config = settings(kind, model, max_length=None, options=options)
    prepared = prepare(load_config(config)).config
    assert prepared.training.max_length == length
    config["training"]["max_length"] = length
    assert prepare(load_config(config)).config.run_name == prepared.run_name


def test_a_run_with_null_trains_and_keeps_the_number(settings):
    result = cl_mlm.run(settings("classification", "roberta", max_length=None), progress=False)
    assert load_config(result.folder / "config.yaml").training.max_length == 139


def test_null_is_refused_where_nothing_names_a_length(settings, tmp_path):
    config = settings("classification", "t5", max_length=None)
    folder = shutil.copytree(config["model"]["name"], tmp_path / "t5")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    del told["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (fault,) = faults(config | {"model": {"name": str(folder)}})
    assert fault.startswith("training.max_length: must be a number for ")
    assert fault.endswith("got null")


@pytest.mark.parametrize("max_length", [None, 200])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_new_tokens": 138}, "max_new_tokens"),
        ({"max_new_tokens": 8, "max_target_length": 150}, "max_target_length"),
        ({"max_new_tokens": 145, "max_target_length": 150}, "max_new_tokens and stream.options.max_target_length"),
    ],
)
def test_options_that_leave_no_room_are_named_with_what_fits(max_length, options, named, settings):
    options = {"separator": "xyz", **options}
    (fault,) = faults(settings("text_to_text", "gpt2", max_length=max_length, options=options))
    start = (
        "null leaves " if max_length is None else "cannot be small enough: this model can read 140 tokens, of which "
    )
    assert fault.startswith(f"training.max_length: {start}")
    assert f"; stream.options.{named} must be at most 135, which leaves 4 for a row" in fault
    fitting = {name: value if name == "separator" else min(value, 135) for name, value in options.items()}
    prepared = prepare(load_config(settings("text_to_text", "gpt2", max_length=None, options=fitting)))
    assert prepared.config.training.max_length == 4


def test_a_separator_that_leaves_no_room_is_named(settings):
    (fault,) = faults(settings("text_to_text", "gpt2", max_length=None, options={"separator": "xyz " * 140}))
    assert fault.endswith("; the separator must take at most 134")


@pytest.mark.parametrize(
    ("model", "prompting", "fault"),
    [
        ("roberta", {"max_length": 140}, "prompting.max_length: must be at most the model's 139, got 140"),
        ("roberta", {"max_length": 8}, "prompting.max_length: must leave room for answers of 26 tokens, got 8"),
        ("gpt2", {"max_length": 8}, "prompting.max_length: must leave room for answers of 26 tokens, got 8"),
        ("bart", {}, "prompting: answers take 200 tokens, and this model's decoder can read 140"),
    ],
)
def test_prompts_must_fit_too(model, prompting, fault, settings, stream_of):
    kind, options = {"roberta": ("language_modelling", {"kind": "masked"})}.get(model, ("text_to_text", {}))
    mask = " {{ mask }}" if model == "roberta" else ""
    words = {"red": " ".join("ab"[i % 2] for i in range(200 if model == "bart" else 26)), "blue": "b"}
    section = {"template": "{{ text }} is" + mask, "verbaliser": words, "data": stream_of("classification")}
    config = settings(kind, model, num_words=6, max_length=64, options=options)
    assert fault in faults(config | {"prompting": section | prompting})


def few_positions(model_folder, folder, kind, **values):
    """Copies a model, with other values in its config."""
    shutil.copytree(model_folder(kind), folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | values))
    return {"name": str(folder)}


@pytest.mark.parametrize("kind", ["classification", "text_to_text"])
def test_rows_beyond_the_positions_that_a_rotary_model_states_are_told(kind, settings, model_folder, tmp_path):
    model = few_positions(model_folder, tmp_path / "model", "llama", max_position_embeddings=32)
    config = settings(kind, "llama", num_words=30, max_length=128) | {"model": model}
    (note,) = prepare(load_config(config)).notes
    said = (
        r"rows up to \d+ tokens, the model's config states 32 positions \(max_position_embeddings\): beyond them its "
    )
    assert re.fullmatch(said + "quality is not known", note)
    assert note in cl_mlm.run(config, progress=False).summary["stream"]["notes"]
    assert f"note: {note}" in look_lines(early_look(prepare(load_config(config))))
    assert note in early_look(prepare(load_config(config))).to_dict()["stream"]["notes"]
    if kind == "classification":
        config["training"]["max_length"] = None
        assert prepare(load_config(config)).notes == ()


def test_nothing_is_told_of_short_rows_nor_of_relative_positions_without_a_length(settings, model_folder, tmp_path):
    model = few_positions(model_folder, tmp_path / "model", "llama", max_position_embeddings=32)
    assert prepare(load_config(settings("classification", "llama", num_words=3) | {"model": model})).notes == ()
    t5 = few_positions(model_folder, tmp_path / "t5", "t5", n_positions=32)
    assert prepare(load_config(settings("classification", "t5", num_words=60) | {"model": t5})).notes == ()
