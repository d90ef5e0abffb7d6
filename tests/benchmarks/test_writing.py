"""The rows of the comparison with `Trainer` are those that the platform trains on."""

from contextlib import closing

import pytest
import torch

from benchmarks.fisher import Writer, Written, tiny_model, written_stream
from benchmarks.writing import encoded
from cl_mlm.objectives.text_to_text import TextToText

pytestmark = pytest.mark.usefixtures("fresh_process", "one_thread")


def test_transformers_loss_of_the_rows_is_the_platforms_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path / "nothing"))
    work = Written("short", tmp_path, tiny_model("gpt2", tmp_path), 1)
    work.stream, work.objective = written_stream("text_to_text", 4), TextToText()
    with closing(Writer(work, {})) as writer:
        run, rows = writer.run, encoded(writer.run)
        run.network.model.eval()
        batch = run.data.rows(run.data.ids(0))
        losses = run.task_loss(run.network.forward(batch), batch) / batch.count
        assert len(rows) == 4
        for row, loss in zip(rows, losses, strict=True):
            inputs = {name: torch.tensor([values]) for name, values in row.items()}
            assert run.network.model(**inputs).loss.item() == pytest.approx(loss.item(), rel=1e-5)
