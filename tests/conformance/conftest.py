"""A small stream of every objective, and what a run of two stages on it gives, to the bit."""

import pytest
import torch
from datasets import Dataset

from cl_mlm.config.loading import load_config
from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.preparation import prepare
from cl_mlm.storage.state_files import split_state
from cl_mlm.stream import Stage, Stream
from cl_mlm.training.evaluation import evaluate, scorable_columns
from cl_mlm.training.loop import train_stage

TOPICS = {"sky": ["sun", "moon", "star", "cloud"], "sea": ["fish", "wave", "salt", "boat"]}
SIZES = {"train": 12, "validation": 2, "test": 5}
# Rows long enough for torch to share a kernel's work among threads: beyond 32,768 numbers.
FILLER = [adjective + noun for adjective in ("old", "red", "far") for noun in ("man", "hill", "rain", "day")]


def words(topic, word, i, split):
    return [word, split, str(i), topic, *FILLER[i % 5 :], word]


def classification(topic, word, i, split):
    return {"text": " ".join(words(topic, word, i, split)), "label": f"{topic} {i % 2}"}


def multilabel(topic, word, i, split):
    return {"text": " ".join(words(topic, word, i, split)), "labels": [word, topic][: i % 3]}


def regression(topic, word, i, split):
    return {"text": " ".join(words(topic, word, i, split)), "value": i / 4}


def language(topic, word, i, split):
    return {"text": " ".join(words(topic, word, i, split))}


def writing(topic, word, i, split):
    return {"source": " ".join(words(topic, word, i, split)), "target": f"{word} {i}"}


def tagging(topic, word, i, split):
    found = words(topic, word, i, split)
    return {"tokens": found, "tags": [f"B-{topic}", *["O"] * (len(found) - 2), f"B-{word if i % 2 else topic}"]}


def relation(topic, word, i, split):
    return {"tokens": words(topic, word, i, split), "head": [0, 2], "tail": [3, 4], "label": f"{topic} {i % 2}"}


def question(topic, word, i, split):
    context = " ".join(words(topic, word, i, split) * 2)
    answer = f"{split} {i}"
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"context": context, "question": f"what is {word}?", "answers": answers}


def conversation(topic, word, i, split):
    texts = [" ".join(words(topic, word, i, split)[:6]), word, f"and {i}?", f"{word} {i}"]
    return {"messages": [{"role": ("user", "assistant")[j % 2], "content": text} for j, text in enumerate(texts)]}


CHAT = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)
# name -> objective, its options, the model, a maker of rows
OBJECTIVES = {
    "classification": ("classification", {}, "tiny", classification),
    "classification, decoder": ("classification", {}, "tiny-decoder", classification),
    "multilabel": ("multilabel", {}, "tiny", multilabel),
    "regression": ("regression", {}, "tiny", regression),
    "tagging": ("tagging", {}, "tiny", tagging),
    "relation": ("relation", {}, "tiny", relation),
    "question_answering": ("question_answering", {"stride": 16}, "tiny", question),
    "causal": ("language_modelling", {"kind": "causal"}, "tiny-decoder", language),
    "packed": ("language_modelling", {"kind": "causal", "pack": True}, "tiny-decoder", language),
    "masked": ("language_modelling", {"kind": "masked"}, "tiny", language),
    "text_to_text, decoder": ("text_to_text", {"max_new_tokens": 4}, "tiny-decoder", writing),
    "conversation": ("conversation", {"max_new_tokens": 4, "chat_template": CHAT}, "tiny-decoder", conversation),
    "text_to_text, encoder-decoder": ("text_to_text", {"max_new_tokens": 4}, "tiny-encoder-decoder", writing),
}


def stage_of(name, topic):
    objective, options, _, make = OBJECTIVES[name]
    parts = {
        split: Dataset.from_list([make(topic, TOPICS[topic][i % 4], i, split) for i in range(size)])
        for split, size in SIZES.items()
    }
    labels = {
        "multilabel": (topic, *TOPICS[topic]),
        "tagging": (topic, *(TOPICS[topic][i] for i in (1, 3))),
        "classification": (f"{topic} 0", f"{topic} 1"),
        "relation": (f"{topic} 0", f"{topic} 1"),
    }.get(objective, ())
    return Stage(topic, **parts, labels=labels, task=objective, objective=objective, options=options)


def stream_of(name):
    if name == "mixed":
        stages = (stage_of("classification", "sky"), stage_of("tagging", "sea"))
    else:
        stages = tuple(stage_of(name, topic) for topic in TOPICS)
    has_classes = bool(stages[0].labels)
    return Stream(name, stages, "class_incremental" if has_classes else "domain_incremental")


@pytest.fixture
def bits_of(fresh_process, one_thread, private_cache):
    """Trains and scores the two stages of an objective (a name of OBJECTIVES, or `mixed`); returns all that it gives.

    Weights and strategies' states are tensors by name; predictions, probabilities and scores are texts.
    """

    def work(name, strategies, threads=1, before=None, finetuning=None, **training):
        model = "tiny" if name == "mixed" else OBJECTIVES[name][2]
        settings = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-3, "max_length": 48, "device": "cpu"}
        layer = {
            "stream": {},
            "model": {"name": model, "dropout": 0.1},
            "strategies": strategies,
            "finetuning": finetuning or {},
            "training": {**settings, "threads": threads, **training},
        }
        prepared = prepare(load_config(layer, needs_stream=False), stream_of(name))
        run = assemble(prepared)
        assert torch.get_num_threads() == threads
        scores = []
        for stage_index in range(len(run.stream))[-1:] if prepared.is_joint else range(len(run.stream)):
            run.place.stage_index = stage_index
            train_stage(run, Deaf())
            found = evaluate(run, "test", scorable_columns(run.stream, run.tasks))
            scores.append(repr((found.predictions, found.probability.tolist(), found.scores)))
        tensors = {name: value.detach().clone() for name, value in run.network.model.named_parameters()}
        plain = {s.name: split_state(s.state_dict(), s.name, tensors) for s in run.strategies}
        return tensors, repr(plain), scores

    return work


class Deaf:
    """Observes nothing."""

    def epoch_done(self, epoch, values):
        pass

    def step_done(self, step, num_steps, epoch, rows, values):
        pass

    def may_checkpoint(self, step, state):
        pass


@pytest.fixture
def assert_equal_bits():
    def check(first, second):
        assert first[0].keys() == second[0].keys()
        differing = [name for name, value in first[0].items() if not torch.equal(value, second[0][name])]
        assert not differing
        assert first[1:] == second[1:]

    return check
