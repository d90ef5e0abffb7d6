"""A config of three stages with an objective each."""

import pytest

KEYS = ["classification", "tagging", "question_answering"]


@pytest.fixture(scope="module")
def layer(make_fast, three_objectives):
    """A config of three stages with six steps each: `layer(output, strategies, order)`."""

    def make(output, strategies, order=(0, 1, 2), **sections):
        options = {"question_answering": {"stride": 16}}
        stages = [
            {"path": KEYS[i], "objective": KEYS[i], **({"options": options[KEYS[i]]} if KEYS[i] in options else {})}
            for i in order
        ]
        fast = make_fast(output)
        training = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "weight_decay": 0.1, "max_length": 64}
        return {
            **fast,
            "stream": {"name": "files", "path": str(three_objectives), "stages_by": "files", "stages": stages},
            "training": {**fast["training"], **training, **sections.pop("training", {})},
            "evaluation": {"splits": ["test"]},
            "checkpoint": {"keep_stages": "all", "every_steps": 5, "every_minutes": None, "reuse_stages": 0},
            "strategies": strategies,
            **sections,
        }

    return make
