"""An online stream under ewc, stopped between two checkpoints, goes on to the same bits with two threads.

After a chunk that is not measured nothing is written, so its Fisher information is taken again.
"""

import pytest
from safetensors.torch import load_file

import cl_mlm
from cl_mlm.data.scenarios import online
from cl_mlm.training.loop import StageTraining

from .conftest import stream_of


class Stopped(BaseException):
    """What no code of the run expects, as if the process were gone."""


def stop_at(patch, step):
    """Ends the run at the end of its `step`-th step."""
    take_step, taken = StageTraining.take_step, []

    def count(self, micro_batches):
        take_step(self, micro_batches)
        taken.append(1)
        if len(taken) == step:
            raise Stopped

    patch.setattr(StageTraining, "take_step", count)


def kept(result):
    folder = result.folder
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".parquet"))
    return {str(path.relative_to(folder)): path for path in files}


def test_an_online_stream_under_ewc_goes_on_to_the_same_bits(fast, fresh_process, monkeypatch, tmp_path):
    stream = online(stream_of("classification"), chunk_rows=8, evaluate_every=2)  # 8, 4, 8 and 4 rows
    fast["stream"], fast["evaluation"] = {}, {"splits": ["test"]}
    fast["training"] |= {"threads": 2, "epochs": 1, "batch_size": 8, "max_length": 48}
    fast["strategies"] = {"ewc": {"weight": 10.0}}
    whole = cl_mlm.run(fast, stream=stream, progress=False)
    fast["output"] = str(tmp_path / "stopped")
    for step in (4, 2):  # in the fourth chunk; then, resumed after the second, in the fourth once more
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                cl_mlm.run(fast, stream=stream, progress=False)
    resumed = cl_mlm.run(fast, stream=stream, progress=False)
    first, second = kept(whole), kept(resumed)
    assert first.keys() == second.keys()
    for name, path in first.items():
        if name.endswith(".parquet"):
            assert path.read_bytes() == second[name].read_bytes()
        else:
            one, other = load_file(path), load_file(second[name])
            assert one.keys() == other.keys()
            assert all(value.equal(other[key]) for key, value in one.items())
    assert repr(whole.summary["accuracy_matrix"]) == repr(resumed.summary["accuracy_matrix"])
