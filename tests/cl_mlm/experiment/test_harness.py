"""Tasks of lm-eval as probes: what its results become, and a whole run where it is installed."""

import importlib.util
import json
import random

import numpy as np
import pytest
import torch

import cl_mlm
from cl_mlm.experiment.harness import scores_of

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


def test_results_become_one_number_a_metric():
    found = {
        "results": {
            "arc": {
                "alias": "arc",
                "acc,none": 0.25,
                "acc_stderr,none": 0.04,
                "acc_norm,none": 0.5,
                "exact_match,strict-match": 1,
                "exact_match_stderr,strict-match": "N/A",
                "sample_len": 40,
            },
            "wiki": {"alias": "wiki", "word_perplexity,none": 31.5, "bits_per_byte,none": float("nan")},
        },
        "n-shot": {"arc": 0},
    }
    assert scores_of(found) == {
        "lm_eval/arc/acc": 0.25,
        "lm_eval/arc/acc_norm": 0.5,
        "lm_eval/arc/exact_match-strict-match": 1.0,
        "lm_eval/wiki/word_perplexity": 31.5,
    }
    assert scores_of({}) == {}


def probed(fast, tmp_path, tasks):
    return fast | {
        "model": {"name": "tiny-decoder", "dropout": 0.0},
        "stream": {**fast["stream"], "as_text": True},
        "probes": {"lm_eval": {"tasks": tasks, "task_folder": str(tmp_path / "tasks"), "limit": 3}},
        "training": {**fast["training"], "steps": 3, "learning_rate": 3e-3},
        "evaluation": {"splits": ["validation"]},
    }


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    """A multiple-choice task of four rows on disk."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"source": f"row {i} is", "choices": ["cold", "hot"], "gold": i % 2} for i in range(4)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "weather",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{ source }}",
        "doc_to_choice": "{{ choices }}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "weather.yaml").write_text(json.dumps(task))
    return folder


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_a_run_that_asks_for_tasks_needs_the_extra(fast, tmp_path):
    with pytest.raises(cl_mlm.ConfigError, match=r"probes.lm_eval: needs lm-eval.*cl-mlm\[lm-eval\].*'weather'"):
        cl_mlm.run(probed(fast, tmp_path, ["weather"]), progress=False)


@needs_harness
def test_a_task_that_there_is_not_is_refused_before_training(fast, tmp_path, task_folder):
    with pytest.raises(cl_mlm.ConfigError, match=r"probes.lm_eval.tasks: must be tasks of .*got wether; allowed: weat"):
        cl_mlm.run(probed(fast, tmp_path, ["wether"]), progress=False)


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_tasks_are_probes_before_training_and_after_every_stage(fast, tmp_path, task_folder, fresh_process):
    from cl_mlm.config.probes import LmEvalConfig
    from cl_mlm.experiment.harness import harness_scores

    found = cl_mlm.run(probed(fast, tmp_path, ["weather"]), progress=False)
    (name,) = found.summary["readings"]
    values = found.summary["readings"][name]
    assert (name, len(values)) == ("lm_eval/weather/acc", 3)
    assert found.summary["probes"][name] == {
        "before": values[0],
        "after": values[2],
        "change": values[2] - values[0],
    }
    plain = cl_mlm.run({**probed(fast, tmp_path, ["weather"]), "probes": None}, progress=False)
    assert plain.summary["validation_matrix"] == found.summary["validation_matrix"]
    # What was measured within the run comes again, and leaves all generators as they were.
    from cl_mlm.config.schema import ModelConfig
    from cl_mlm.models.loading import load_backbone
    from cl_mlm.objectives.text_to_text import TextToText

    folder = found.folder / "stages" / "001" / "model"
    backbone = load_backbone(ModelConfig(str(folder)), (), 0, 64, TextToText())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    again = harness_scores(backbone, LmEvalConfig(["weather"], str(task_folder), None, 3), 4)
    assert again == {name: values[2]}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
