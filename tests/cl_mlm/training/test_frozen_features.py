"""A frozen body's output, computed once: same figures, fewer passes, for every family of models."""

import copy

import numpy as np
import pytest
import torch

import cl_mlm
from cl_mlm.training.frozen_features import FrozenFeatures

OTHERS = ["roberta", "distilbert", "llama", "bart"]
APART = {"checkpoint": {"reuse_stages": 0}}


@pytest.fixture
def frozen(fast, model_folder):
    """A config of head-only fine-tuning of one family."""

    def make(kind):
        training = fast["training"] | {"steps": 8, "epochs": 1, "learning_rate": 0.05, "max_length": 64}
        model = {"name": model_folder(kind)}
        return {**fast, **APART, "model": model, "training": training, "finetuning": {"mode": "head"}}

    return make


@pytest.fixture
def body_passes(monkeypatch):
    """Counts the rows that go through the body of a BERT."""
    from transformers import BertModel

    rows, forward = [], BertModel.forward

    def count(self, input_ids, *arguments, **named):
        rows.append(len(input_ids))
        return forward(self, input_ids, *arguments, **named)

    monkeypatch.setattr(BertModel, "forward", count)
    return rows


def weights(result):
    return result.model().state_dict()


@pytest.mark.parametrize(
    "kind", ["bert", "gpt2", "t5", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)]
)
def test_cached_features_give_what_the_body_itself_gives(kind, frozen, caplog):
    kept = cl_mlm.run(frozen(kind), strategies=["replay"])
    plain = cl_mlm.run(frozen(kind), "finetuning.cache_features=false", strategies=["replay"])
    assert "runs every time" not in caplog.text
    a, b = weights(kept), weights(plain)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(kept.matrix, plain.matrix, atol=0.05)
    assert kept.summary["cost"]["train_examples"] == plain.summary["cost"]["train_examples"]


def test_every_row_goes_through_the_body_once(frozen, body_passes):
    cl_mlm.run(frozen("bert"), "evaluation.splits=[test]", "training.steps=40")
    # 8 rows to find what the head reads; 2 x 16 rows of training, 2 x 12 of test.
    assert sum(body_passes) == 8 + 32 + 24


def test_without_the_cache_every_row_of_every_step_goes_through_the_body(frozen, body_passes):
    cl_mlm.run(frozen("bert"), "evaluation.splits=[test]", "training.steps=40", "finetuning.cache_features=false")
    assert sum(body_passes) > 2 * 40 * 4


def test_full_fine_tuning_keeps_no_features(frozen, monkeypatch):
    def never(*arguments):
        raise AssertionError("features of a body that is trained")

    monkeypatch.setattr(FrozenFeatures, "find", never)
    cl_mlm.run(frozen("bert"), "finetuning.mode=full")


def test_a_head_that_reads_whole_sequences_is_said_and_the_body_runs(frozen, monkeypatch, caplog):
    from transformers import BertForSequenceClassification

    def mean_pooled(self, input_ids=None, attention_mask=None, **named):
        from transformers.modeling_outputs import SequenceClassifierOutput

        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden.mean(1)))

    monkeypatch.setattr(BertForSequenceClassification, "forward", mean_pooled)
    cl_mlm.run(frozen("bert"))
    assert caplog.text.count("the head of this model reads whole sequences") == 1


def test_an_interrupted_run_goes_on_to_the_same_bits(frozen, tmp_path, monkeypatch):
    whole = cl_mlm.run(frozen("bert"), f"output={tmp_path / 'whole'}")
    evaluate, calls = cl_mlm.experiment.scoring.evaluate, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise OSError("pulled the plug")
        return evaluate(*arguments)

    monkeypatch.setattr(cl_mlm.experiment.scoring, "evaluate", failing)
    with pytest.raises(OSError, match="plug"):
        cl_mlm.run(frozen("bert"))
    monkeypatch.undo()
    resumed = cl_mlm.run(frozen("bert"))
    a, b = weights(whole), weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_copy_of_the_model_made_by_a_strategy_works_by_itself(frozen):
    from cl_mlm.strategy import Strategy

    class Teacher(Strategy):
        def after_stage(self, run, stage):
            batch = run.rows(run.training_ids[:3])
            teacher = copy.deepcopy(run.model).eval()
            run.model.eval()
            with torch.no_grad():
                expected = run.forward(batch).logits
                torch.testing.assert_close(teacher(**batch.inputs).logits, expected, rtol=1e-4, atol=1e-4)

    cl_mlm.run(frozen("bert"), strategies=[Teacher()])
