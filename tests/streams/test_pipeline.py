"""The stream of a decoder's whole life: a corpus first, then intents as text, and a probe of held-out text."""

import pytest

import cl_mlm
from cl_mlm.errors import ConfigError
from streams.pipeline import CORPUS, HELD_OUT, pipeline

SMALL = {"num_stages": 2, "labels_per_stage": 2, "corpus_rows": 6, "train_rows": 4, "held_out_rows": 2}


@pytest.fixture(scope="module")
def stream():
    return pipeline(**SMALL)


def test_a_corpus_comes_first_and_then_the_intents_as_text(stream):
    assert [stage.name for stage in stream.stages] == [CORPUS, "labels-01", "labels-02"]
    assert [stage.objective for stage in stream.stages] == ["language_modelling", "text_to_text", "text_to_text"]
    assert [len(stage.train) for stage in stream.stages] == [4 * 6, 2 * 4, 2 * 4]
    assert stream.stages[0].train.column_names == ["text"]


def test_intents_are_scored_and_held_out_text_is_a_probe(stream):
    assert [(column.name, column.home) for column in stream.columns] == [
        ("labels-01", 1),
        ("labels-02", 2),
        (HELD_OUT, None),
    ]
    assert len(stream.columns[-1].test) == 4 * 2


def test_no_request_is_in_two_parts(stream):
    corpus, held_out = stream.stages[0].train["text"], stream.columns[-1].test["text"]
    labelled = [text for stage in stream.stages[1:] for text in stage.train["source"]]
    tested = [text for column in stream.columns[:-1] for text in column.test["source"]]
    parts = [{*corpus}, {*held_out}, {*labelled}, {*tested}]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_all_intents_are_answers_from_the_first_stage_on(stream):
    intents = {target for stage in stream.stages[1:] for target in stage.train["target"]}
    assert all({*stage.options["answers"]} == intents for stage in stream.stages[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_stages": 0}, "stream.num_stages: must be at least 1, got 0"),
        ({"num_stages": 11}, "stream.num_stages: must be at most 10, got 11"),
        ({"corpus_rows": 0}, "stream.corpus_rows: must be at least 1, got 0"),
        ({"held_out_rows": 0}, "stream.held_out_rows: must be at least 1, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        pipeline(**{**SMALL, **arguments})


def test_a_decoder_is_pre_trained_fine_tuned_and_prompted_before_and_after_each_stage(tmp_path, own_store):
    result = cl_mlm.run(
        "configs/pipeline.yaml",
        f"output={tmp_path}",
        progress=False,
        stream={"name": "pipeline", **SMALL},
        limit=4,
        prompting={"shots": [0, 1], "max_rows": 2},
        training={"threads": 1},
    )
    assert result.matrix.shape == (3, 3)
    prompted = result.summary["prompting"]
    assert prompted["columns"] == ["labels-01", "labels-02"]
    assert {shots: len(rows) for shots, rows in prompted["shots"].items()} == {"0": 4, "1": 4}
    assert result.summary["probes"][HELD_OUT]["change"] is not None
