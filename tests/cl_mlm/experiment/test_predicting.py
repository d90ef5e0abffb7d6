"""New rows get the answers that the run's own test rows got: every objective, every form of rows."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import cl_mlm
from cl_mlm.errors import ConfigError, DataError, RunFolderError

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

TOPICS = {"sky": ["sun", "moon", "star", "cloud"], "sea": ["fish", "wave", "salt", "boat"]}
SIZES = {"train": 8, "validation": 3, "test": 5}


def question(topic, word, i, split):
    context = " ".join(f"{w} is number {n} of {split} {i} in the {topic}." for n, w in enumerate(TOPICS[topic] * 2))
    answer = f"number {TOPICS[topic].index(word)}"
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"context": context, "question": f"what is {word}?", "answers": answers}


def text(topic, word, i, split):
    return f"{word} {split} {i} {'and so on ' * (i % 4)}{topic}"


MAKERS = {
    "classification": lambda t, w, i, s: {"text": text(t, w, i, s), "label": f"{t}{i % 2}"},
    "pairs": lambda t, w, i, s: {"text": text(t, w, i, s), "text_pair": f"a {w}", "label": f"{t}{i % 2}"},
    "tagging": lambda t, w, i, s: {"tokens": text(t, w, i, s).split(), "tags": [f"B-{t}"] + ["O"] * (3 + 3 * (i % 4))},
    "relation": lambda t, w, i, s: {
        "tokens": text(t, w, i, s).split(),
        "head": [0, 1],
        "tail": [1, 2 + i % 2],
        "label": f"{t}{i % 2}",
    },
    "question_answering": question,
    "multilabel": lambda t, w, i, s: {"text": text(t, w, i, s), "labels": [w, t][: i % 3]},
    "regression": lambda t, w, i, s: {"text": text(t, w, i, s), "value": i / 4},
    "text_to_text": lambda t, w, i, s: {"source": text(t, w, i, s), "target": w},
}
OPTIONS = {
    "question_answering": {"stride": 16},
    "text_to_text": {"max_new_tokens": 5, "prefix": "say: "},
    "multilabel": {"threshold": 0.45},
}
MODELS = {"text_to_text": ["gpt2", "t5"], "question_answering": ["gpt2"], "multilabel": ["tiny"]}
CASES = [(kind, model) for kind in MAKERS for model in MODELS.get(kind, ["bert", "gpt2"])]


def rows_of(kind, split):
    return [MAKERS[kind](t, words[i % 4], i, split) for t, words in TOPICS.items() for i in range(SIZES[split])]


@pytest.fixture
def trained(quick, model_folder, tmp_path):
    """A run of two stages, or of one: `trained(objective, model)`."""

    def make(kind, model="bert", **stream):
        folder = tmp_path / kind
        for topic, words in TOPICS.items():
            (folder / topic).mkdir(parents=True, exist_ok=True)
            for split, size in SIZES.items():
                rows = [MAKERS[kind](topic, words[i % 4], i, split) for i in range(size)]
                (folder / topic / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        objective = "classification" if kind == "pairs" else kind
        section = {"name": "files", "path": str(folder), "stages_by": "files", "order": list(TOPICS)}
        section |= {"objective": objective, "options": OPTIONS.get(kind, {})} | stream
        if kind not in ("question_answering", "regression", "text_to_text"):
            section = {"scenario": "class_incremental"} | section
        quick["stream"] = section
        quick["model"] = {"name": model if model == "tiny" else model_folder(model), "dropout": 0.0}
        quick["training"] |= {"steps": 12, "learning_rate": 1e-2, "max_length": 64}
        if kind == "multilabel":  # which takes longer to tell rows apart
            quick["training"] |= {"steps": 60, "learning_rate": 2e-3, "batch_size": 8}
        quick["checkpoint"] = {"keep_stages": "all"}
        return cl_mlm.run(quick, progress=False)

    return make


def kept(result, stage, name="prediction"):
    return pq.read_table(result.folder / "predictions" / f"{stage}.parquet").to_pydict()[name]


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_new_rows_get_the_answers_of_the_test_rows(kind, model, trained):
    result = trained(kind, model)
    # Without their answers, in another order and beside others: none of that may change an answer.
    answers = {"label", "tags", "answers", "labels", "value", "target"}
    rows = [{k: v for k, v in row.items() if k not in answers} for row in rows_of(kind, "test")]
    found = result.predict(rows[::-1], scores=True)[::-1]
    answers, probabilities = [answer for answer, _ in found], [p for _, p in found]
    expected, p_expected = kept(result, 1), kept(result, 1, "probability")
    assert len({*map(str, [*expected, *p_expected])}) > 2, "equal answers would prove nothing"
    assert answers == (pytest.approx(expected, abs=1e-5) if kind == "regression" else expected)
    if probabilities[0] is not None:
        assert probabilities == pytest.approx(p_expected, abs=1e-5)
    assert str(result.predict(rows[:1])[0])[:6] == str(expected[0])[:6]


def test_an_earlier_stage_is_asked(trained):
    result = trained("classification")
    first = result.predict([row["text"] for row in rows_of("classification", "test")], stage=0)
    assert first[:5] == kept(result, 0)[:5]
    assert set(first) <= {"sky0", "sky1"}
    assert result.model_folder(0).name == "model"
    assert result.model(0).config.id2label == {0: "sky0", 1: "sky1"}


@pytest.mark.parametrize("below", [0.2, 0.999])
def test_a_row_is_rejected_as_in_the_run(below, trained):
    options = {"reject": "none", "reject_below": below}
    result = trained("classification", options=options)
    found = result.predict([row["text"] for row in rows_of("classification", "test")])
    assert found == kept(result, 1)
    assert ("none" in found) == (below > 0.9)
    with pytest.raises(ConfigError, match=r"pipeline: none of transformers' rejects a row as 'none'"):
        result.pipeline()


def test_where_the_stage_is_known_its_column_is_named(trained):
    result = trained("classification", scenario="task_incremental")
    texts = [row["text"] for row in rows_of("classification", "test")]
    assert result.predict(texts[:5], column="sky") + result.predict(texts[5:], column="sea") == kept(result, 1)
    with pytest.raises(ConfigError, match=r"column: in this stream .*, got 'se' \(did you mean 'sea'\?"):
        result.predict(texts, column="se")
    with pytest.raises(ConfigError, match="one of sky, got 'sea'"):
        result.predict(texts, stage=0, column="sea")
    with pytest.raises(ConfigError, match="labels of its own column only"):
        result.pipeline()


def test_each_task_of_a_mixed_stream_is_asked(mixed):
    mixed["training"] |= {"steps": 4}
    mixed["checkpoint"] = {"keep_stages": "all"}
    result = cl_mlm.run(mixed, progress=False)
    stored = pq.read_table(result.folder / "predictions" / "1.parquet").to_pydict()
    expected = [json.loads(value) for value in stored["prediction"]]
    folder = Path(mixed["stream"]["path"])
    rows = {
        name: [json.loads(line) for line in (folder / name / "test.jsonl").read_text().splitlines()]
        for name in ("labels", "tags")
    }
    texts, words = [row["text"] for row in rows["labels"]], [row["tokens"] for row in rows["tags"]]
    assert result.predict(texts, task="classification") + result.predict(words) == expected
    with pytest.raises(ConfigError, match="stage: must be at least 1 for task tagging"):
        result.predict(words, stage=0, task="tagging")
    with pytest.raises(ConfigError, match=r"task: must be one of classification, tagging, got 'tags'"):
        result.predict(words, task="tags")


FORMS = {
    "strings": lambda texts: texts,
    "dicts": lambda texts: [{"text": text, "other": 1} for text in texts],
    "columns": lambda texts: {"text": texts},
    "a generator": lambda texts: (text for text in texts),
    "a tuple": tuple,
}


def test_rows_may_come_in_any_form(trained):
    import numpy as np
    import pandas as pd
    from datasets import Dataset

    result = trained("classification")
    texts = [row["text"] for row in rows_of("classification", "test")]
    forms = {**FORMS, "a frame": lambda t: pd.DataFrame({"text": t}), "a series": pd.Series, "an array": np.array}
    forms["a data set"] = lambda t: Dataset.from_dict({"text": t, "label": ["never seen"] * len(t)})
    for form, make in forms.items():
        assert result.predict(make(texts)) == kept(result, 1), form
    assert result.predict(texts[0]) == result.predict({"text": texts[0]}) == kept(result, 1)[:1]
    assert result.predict([]) == []


def test_pairs_and_words_may_come_in_short(trained):
    pairs = trained("pairs")
    rows = rows_of("pairs", "test")
    assert pairs.predict([(row["text"], row["text_pair"]) for row in rows]) == kept(pairs, 1)
    with pytest.raises(DataError, match="must each be a pair of texts, or a dict of them, got 'alone' as row 0"):
        pairs.predict(["alone"])
    tagged = trained("tagging")
    rows = rows_of("tagging", "test")
    assert tagged.predict([" ".join(row["tokens"]) for row in rows]) == kept(tagged, 1)
    assert tagged.predict([row["tokens"] for row in rows]) == kept(tagged, 1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["good", ""], "rows: text must be a non-empty string, got '' in row 1"),
        (["good", "  "], "got '  ' in row 1"),
        (["good", None], "got None in row 1"),
        ([5], "got 5 in row 0"),
        ([float("nan")], "got nan in row 0"),
        ([{"txt": "a"}], r"rows: need 'text' each, got {'txt': 'a'} as row 0 \(did you mean 'txt'\?\)"),
        ([{"text": "a"}, {}], "rows: need 'text' each, got {} as row 1"),
        ({"utterance": ["a"]}, "rows: need the column 'text', have 'utterance'"),
        ({"text": ["a"], "text_pair": ["b"]}, "must be single texts"),
        ([("a", "b")], "must each be a dict with text, got"),
        (b"bytes", "rows: must be a list of strings"),
        (7, "rows: must be a list of strings"),
        (None, "rows: must be a list of strings"),
        ({"text": 5}, "a dict must hold a list for each column, got 5 for 'text'"),
    ],
)
def test_rows_that_cannot_be_read_are_told_in_words(rows, said, quick_result):
    with pytest.raises(DataError, match=said):
        quick_result.predict(rows)


@pytest.fixture(scope="module")
def quick_result(make_fast, small_stream, tmp_path_factory):
    config = make_fast(tmp_path_factory.mktemp("quick"))
    config["training"] |= {"steps": 1}
    return cl_mlm.run(config, stream=small_stream, progress=False)


def test_a_stage_that_is_not_there_or_not_kept_is_told(quick_result):
    with pytest.raises(ConfigError, match="stage: must be -2 to 1, got 2"):
        quick_result.predict(["a"], stage=2)
    with pytest.raises(ConfigError, match="stage: must be -2 to 1, got 'last'"):
        quick_result.predict(["a"], stage="last")
    with pytest.raises(RunFolderError, match=r"not kept; run with checkpoint.keep_stages=all \(kept: stage 1\)"):
        quick_result.predict(["a"], stage=0)
    with pytest.raises(ConfigError, match="device: must be"):
        quick_result.predict(["a"], device="tpu")


def test_an_objective_without_answers_is_told(packed):
    packed["training"] |= {"steps": 1}
    result = cl_mlm.run(packed, progress=False)
    with pytest.raises(ConfigError, match="objective language_modelling: gives no answer for a new row"):
        result.predict(["a text"])


def test_a_summary_of_an_earlier_version_is_told(quick_result):
    summary = {key: value for key, value in quick_result.summary.items() if key != "tasks"}
    with pytest.raises(RunFolderError, match="an earlier version has written it"):
        cl_mlm.Result(quick_result.folder, summary).predict(["a"])


def test_predicting_leaves_the_random_generators_alone(quick_result):
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    quick_result.predict(["a"])
    assert (torch.get_rng_state() == before).all()


def test_a_pipeline_gives_the_labels_of_predict(trained):
    result = trained("classification")
    long = "sun " * 200  # cut, as in the run
    texts = [long, *(row["text"] for row in rows_of("classification", "test"))]
    assert [found["label"] for found in result.pipeline(device="cpu")(texts)] == result.predict(texts)
    tagged = trained("tagging")
    words = [row["tokens"] for row in rows_of("tagging", "test")]
    pipe = tagged.pipeline()
    for own, tags in zip(words, tagged.predict(words), strict=True):
        found = {token["start"]: token["entity"] for token in pipe(own, is_split_into_words=True)[0]}
        starts = [len(" ".join(own[:i])) + (i > 0) for i in range(len(own))]
        assert [found.get(start, "O") for start in starts] == tags


def test_pipelines_of_other_objectives(trained, monkeypatch):
    many = trained("multilabel", "tiny")
    texts = [row["text"] for row in rows_of("multilabel", "test")]
    found = [sorted(one["label"] for one in row if one["score"] >= 0.45) for row in many.pipeline()(texts)]
    assert found == many.predict(texts)
    number = trained("regression")
    assert [row["score"] for row in number.pipeline()(texts)] == pytest.approx(number.predict(texts), abs=1e-5)
    with pytest.raises(ConfigError, match="gives the answers of objective relation; predict"):
        trained("relation").pipeline()
    tagged = trained("tagging", "gpt2")
    monkeypatch.setattr("cl_mlm.experiment.pipelines.needs_space", lambda tokenizer: True)
    with pytest.raises(ConfigError, match="reads words without the space"):
        tagged.pipeline()


@pytest.mark.parametrize("kind", ["classification", "question_answering", "text_to_text"])
def test_a_row_longer_than_the_model_can_read_is_cut(kind, trained):
    result = trained(kind, "gpt2")  # 140 positions
    summary = json.loads(json.dumps(result.summary))
    summary["settings"]["training"]["max_length"] = 512  # as where all rows of the run are short
    loose = cl_mlm.Result(result.folder, summary)
    rows = rows_of(kind, "test")
    text = next(name for name in ("text", "context", "source") if name in rows[0])
    assert loose.predict([*rows, rows[0] | {text: rows[0][text] * 100}])[:-1] == loose.predict(rows)
