"""Rows of several columns with the same input are written once, in order of the length of their inputs."""

import pytest
from datasets import Dataset

from cl_mlm.config.schema import Config, EvaluationConfig, ModelConfig, TrainingConfig
from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives import text_to_text
from cl_mlm.stream import Stage, Stream
from cl_mlm.training.evaluation import evaluate

SHARED = ["how cold is it today", "one", "a way round"]


def rows(sources, targets):
    return Dataset.from_dict({"source": sources, "target": targets})


@pytest.fixture
def writing_run(run_of, model_folder, tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))

    def make(batch_size=2, **options):
        own = rows(["two", *SHARED], ["a long answer that is told at length", "b", "c", "d"])
        others = rows([*SHARED, "one"], ["e", "f", "g", "h"])
        stages = tuple(
            Stage(f"stage {i}", split, split, split, (), "t", "text_to_text", {"max_new_tokens": 4, **options})
            for i, split in enumerate((own, others))
        )
        stream = Stream("texts", stages, "domain_incremental")
        (task,) = tasks_of(stream)
        backbone = load_backbone(ModelConfig(model_folder("gpt2")), (), 0, 64, task.objective)
        task.objective.bind(backbone.model, backbone.kind)
        config = Config(training=TrainingConfig(device="cpu", threads=1), evaluation=EvaluationConfig(batch_size))
        return run_of(config, stream, lambda labels: backbone, (), task.objective, last_stage=1)

    return make


@pytest.fixture
def written(monkeypatch):
    """The widths of the inputs of every batch that is written."""
    shapes, generate = [], text_to_text.generate_texts

    def watched(run, inputs, *more, **named):
        shapes.append(tuple(inputs["input_ids"].shape))
        return generate(run, inputs, *more, **named)

    monkeypatch.setattr(text_to_text, "generate_texts", watched)
    return shapes


def test_a_row_of_several_columns_is_written_once(writing_run, written):
    found = evaluate(writing_run(), "test", [0, 1])
    assert sum(count for count, _ in written) == 4
    assert found.references == ["a long answer that is told at length", *"bcdefgh"]
    assert found.predictions[1:4] == found.predictions[4:7]
    assert found.predictions[5] == found.predictions[7]


def test_batches_are_sorted_by_the_length_of_what_is_read(writing_run, written):
    evaluate(writing_run(), "test", [0, 1])
    widths = [width for _, width in written]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] < widths[0]


def test_every_column_has_the_scores_that_it_has_alone(writing_run):
    run = writing_run(batch_size=3)
    together = evaluate(run, "test", [0, 1])
    for column in (0, 1):
        alone = evaluate(run, "test", [column])
        assert alone.scores[column] == together.scores[column]
        assert alone.predictions == together.predictions[4 * column : 4 * column + 4]
