"""Whole runs whose rows run packed: as padded ones, with strategies, however a step is cut, and killed."""

import signal

import pytest
import torch
from datasets import Dataset
from killing import die_at

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.stream import Stage, Stream
from cl_mlm.training.step import Step

pytestmark = pytest.mark.usefixtures("fresh_process")

WORDS = {"north": ("ice", "a very long winter night", "snow"), "south": ("sun", "sand on every road there is", "dry")}
STRATEGIES = {"replay": {"capacity": 6}, "ewc": {"weight": 10.0}, "lwf": {"weight": 1.0}}


def stream_of(objective="text_to_text", options=None):
    def rows(words, split, count):
        texts = [f"{split} {words[i % 3]} {i}" for i in range(count)]
        return Dataset.from_dict({"source": texts, "text": texts, "target": [words[-i % 3] for i in range(count)]})

    options = {"max_new_tokens": 4} if options is None else options
    stages = tuple(
        Stage(name, rows(words, "a", 12), rows(words, "b", 2), rows(words, "c", 3), (), objective, objective, options)
        for name, words in WORDS.items()
    )
    return Stream("words", stages, "domain_incremental")


@pytest.fixture
def go(fast):
    def go(folder="runs", pack=True, dropout=0.0, strategies=(), stream=None, **training):
        config = {key: value for key, value in fast.items() if key != "stream"} | {
            "output": f"{fast['output']}/{folder}",
            "model": {"name": "tiny-decoder", "dropout": dropout},
            "strategies": {name: STRATEGIES[name] for name in strategies},
            "checkpoint": {"every_steps": 2, "every_minutes": None, "reuse_stages": 0},
            "evaluation": {"splits": ["test"]},
            "training": {**fast["training"], "epochs": 2, "pack": pack, **training},
        }
        # SGD, whose steps are as long as the gradient: what differs in it only by rounding stays so.
        config["training"] |= {"optimizer": "sgd", "learning_rate": 0.05}
        return cl_mlm.run(config, stream=stream or stream_of(), progress=False)

    return go


@pytest.fixture
def passes(monkeypatch):
    """Counts the sequences and the rows of all packed passes."""
    import cl_mlm.models.packed_rows

    seen, made = {"sequences": 0, "rows": 0}, cl_mlm.models.packed_rows.PackedRows

    def count(mask, hidden):
        rows = made(mask, hidden)
        seen["sequences"], seen["rows"] = seen["sequences"] + rows.shape[0], seen["rows"] + len(mask)
        return rows

    monkeypatch.setattr(cl_mlm.models.packed_rows, "PackedRows", count)
    return seen


def assert_close(first, second):
    a, b = first.model().state_dict(), second.model().state_dict()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
    counted = ("steps", "train_examples", "train_tokens", "hook_examples")
    assert [first.summary["cost"].get(name) for name in counted] == [
        second.summary["cost"].get(name) for name in counted
    ]


@pytest.mark.parametrize("strategies", [(), ("replay", "ewc"), ("lwf",)])
def test_packed_and_padded_runs_learn_the_same(go, passes, strategies):
    packed = go(strategies=strategies)
    assert 0 < passes["sequences"] < passes["rows"] == packed.summary["cost"]["train_examples"]
    assert_close(packed, go(pack=False, strategies=strategies))


def test_language_modelling_packs_its_rows(go, passes):
    stream = stream_of("language_modelling", {})
    assert_close(go(stream=stream), go(pack=False, stream=stream))
    assert passes["sequences"] < passes["rows"]


def test_a_steps_rows_do_not_depend_on_how_it_is_cut(go, monkeypatch):
    whole = go(batch_size=4)
    assert_close(whole, go(batch_size=2, accumulation=2))
    started = Step.__init__

    def in_pieces(self, *arguments):
        started(self, *arguments)
        self.num_pieces = 2  # as after memory has not sufficed

    monkeypatch.setattr(Step, "__init__", in_pieces)
    assert_close(whole, go("pieces", batch_size=4))


def test_a_killed_run_ends_as_if_it_had_not_been(go):
    strategies = ("replay", "ewc")
    whole = go("whole", dropout=0.3, strategies=strategies)
    assert die_at(9, lambda: go("cut", dropout=0.3, strategies=strategies)) == -signal.SIGKILL  # in the second stage
    cut = go("cut", dropout=0.3, strategies=strategies)
    a, b = whole.model().state_dict(), cut.model().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])


def test_packing_is_part_of_the_identity_only_where_it_is_asked_for(fast):
    plain, off, on = (load_config(fast, given) for given in ([], ["training.pack=false"], ["training.pack=true"]))
    assert plain.run_name == off.run_name != on.run_name
    assert "pack" not in plain.to_dict()["training"]


@pytest.mark.parametrize(
    ("family", "objective", "options", "reason"),
    [
        ("t5", "text_to_text", None, "for objective text_to_text on an encoder-decoder: rows run packed where"),
        (
            "bert",
            "language_modelling",
            {"kind": "masked"},
            "for objective language_modelling on a model of the form mask",
        ),
        ("gpt2", "language_modelling", {"pack": True}, "for objective language_modelling with stream.options.pack"),
    ],
)
def test_what_cannot_run_packed_is_refused_by_name(fast, model_folder, family, objective, options, reason):
    config = load_config({**fast, "model": {"name": model_folder(family)}}, ["training.pack=true"])
    with pytest.raises(ConfigError) as refused:
        prepare(config, stream_of(objective, options))
    assert refused.value.problems[0].startswith(f"training.pack: must be false {reason}")


def test_a_decoder_that_counts_positions_otherwise_is_refused(fast, tmp_path):
    from transformers import OPTConfig

    from cl_mlm.models.tiny import letter_tokenizer

    tokenizer = letter_tokenizer("tiny-decoder")
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_attention_heads": 2}
    OPTConfig(vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=128, **sizes).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    config = load_config({**fast, "model": {"name": str(tmp_path)}}, ["training.pack=true"])
    with pytest.raises(ConfigError, match=r"training\.pack: must be .* of the family opt, .* allowed: codegen"):
        prepare(config, stream_of())


def test_a_class_head_on_a_decoder_is_refused(fast):
    fast["model"] = {"name": "tiny-decoder"}
    with pytest.raises(ConfigError, match=r"training\.pack: must be false for objective classification"):
        prepare(load_config(fast, ["training.pack=true"]))


@pytest.mark.parametrize("mode", ["prompt", "p_tuning", "prefix"])
def test_vectors_in_front_of_a_row_are_refused(fast, mode):
    fast |= {"model": {"name": "tiny-decoder"}, "finetuning": {"mode": mode}}
    with pytest.raises(ConfigError, match=rf"training\.pack: must be false with finetuning\.mode {mode}, whose"):
        prepare(load_config(fast, ["training.pack=true"]), stream_of())
