"""What two stages of one task have alike, and how long that is remembered."""

import importlib
import sys
from dataclasses import replace

from cl_mlm.config.loading import load_config
from cl_mlm.data.stream_building import build_stream
from cl_mlm.data.tasks import identity

SECTION = {"name": "phrasebook", "labels_per_stage": 5, "overlap": "drop"}


def test_options_that_change_in_place_make_another_task():
    stream, _ = build_stream(
        load_config(
            {"stream": {"name": "phrasebook", "labels_per_stage": 5, "overlap": "drop", "as_text": True}}
        ).stream
    )
    options = {"answers": ["a", "b"]}
    stage = replace(stream.stages[0], options=options)
    first = identity(stage)
    options["answers"].append("c")
    assert identity(stage) != first
    options["answers"].pop()
    assert identity(stage) == first


def test_an_objective_of_a_module_that_is_loaded_anew_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "from cl_mlm.objectives.regression import Regression\n"
        "class Mine(Regression):\n"
        "    def __init__(self, width: int = {}):\n"
        "        super().__init__()\n"
        "        self.width = width\n"
        "    def options(self):\n"
        "        return {{'width': self.width}}\n"
    )
    stream, _ = build_stream(
        load_config({"stream": {"name": "phrasebook", "labels_per_stage": 5, "overlap": "drop"}}).stream
    )
    stage = replace(stream.stages[0], objective="my_objective.Mine", options={})
    seen = []
    for width in (1, 22):
        (tmp_path / "my_objective.py").write_text(source.format(width))
        importlib.invalidate_caches()
        sys.modules.pop("my_objective", None)
        seen.append(identity(stage)[1])
    sys.modules.pop("my_objective", None)
    assert seen == ["[('width', 1)]", "[('width', 22)]"]
