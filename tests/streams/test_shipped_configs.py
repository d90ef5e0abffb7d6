"""The configs of public sets fit these sets: on a stand-in for ATIS, and on the real sets that are here."""

import json
import os
from pathlib import Path

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.data.stream_building import build_stream
from cl_mlm.errors import DataError

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
LACKING = {"atis_intents", "atis_slots", "banking77", "fewnerd", "hwu64", "ontonotes", "trace"}  # no copy is here
OWN = {"own_data"}  # for a file of the reader's
LEFT_OUT = {
    "standard4": ["stream.without=[yahoo]"],
    "long15": ["stream.without=[yahoo]"],
    "summarisation": ["stream.without=[samsum,xsum]"],
    "sentiment": ["stream.path=sst2"],
}
TYPES = [f"{end}.{kind}" for end in ("fromloc", "toloc", "stoploc") for kind in ("city_name", "airport_name")]
TYPES += ["airline_name", "flight_days", "class_type", "meal", "round_trip"]


def words(split, kind, i):
    own = kind.split(".")
    return {"tokens": [f"{split}{i}", *own], "tags": ["O", *(f"{p}-{kind}" for p in "BI"[: len(own)])]}


@pytest.fixture
def atis(tmp_path):
    """ATIS as it is: `days_code` has one training row, which is a test row, too, and other test rows."""
    code = {"tokens": ["what", "is", "sa"], "tags": ["O", "O", "B-days_code"]}
    (tmp_path / "slots").mkdir()
    (tmp_path / "intents").mkdir()
    for split, number in {"train": 20, "test": 8}.items():
        rows = [words(split, kind, i) for i in range(number) for kind in TYPES] + [code]
        (tmp_path / "slots" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        texts = [{"text": " ".join(row["tokens"]), "label": row["tags"][-1][2:]} for row in rows]
        (tmp_path / "intents" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return tmp_path


@pytest.mark.parametrize("name", ["slots", "intents"])
def test_atis_is_read_without_what_only_test_rows_have(atis, name):
    path = CONFIGS / f"atis_{name}.yaml"
    config = load_config(path, [f"stream.path={atis / name}"])
    with pytest.raises(DataError, match=r"after stream.overlap=drop: train has no row of 'days_code', test has 1"):
        build_stream({**config.stream, "unseen_labels": "error"})
    stream, _ = build_stream(config.stream)
    assert "days_code" not in stream.labels
    assert stream.notes[-1].startswith("labels without training rows: 0 validation and 1 test rows dropped, with 'days")


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.yaml")} - LACKING - OWN))
def test_the_real_sets_pass_the_gate(monkeypatch, name):
    if not (DATA / "clinc150").is_dir():
        pytest.skip("the public data sets are not here")
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    config = load_config(CONFIGS / f"{name}.yaml", LEFT_OUT.get(name, ()))
    assert len(build_stream(config.stream, folds_case=lambda: True)[0])
