import json
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from cl_mlm.config.components import make_stream
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS
from streams.clinc150 import DOMAIN_OF, INTENTS, REVISION, clinc150

DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
NAMES = ["oos", *sorted(DOMAIN_OF)]

real_data = pytest.mark.real_data
here = pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason="the public data sets are not here")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def small_rows(split):
    """Every intent twice, in an order of its own, then out-of-scope rows, as both sources hold them."""
    labels = [*reversed(NAMES[1:]), *NAMES[1:]]
    return [(f"{split} {label} {i}", label) for i, label in enumerate(labels)] + [(f"{split} what", "oos")] * 5


@pytest.fixture
def hub(monkeypatch):
    """Puts a small set of the hub's shape in its place; returns the arguments that it is asked with."""
    asked = []
    features = Features({"text": Value("string"), "intent": ClassLabel(names=NAMES)})

    def load_dataset(*arguments, revision):
        asked.append((*arguments, revision))
        parts = {}
        for split in SPLITS:
            texts, labels = zip(*small_rows(split), strict=True)
            columns = {"text": list(texts), "intent": [NAMES.index(label) for label in labels]}
            parts[split] = Dataset.from_dict(columns, features=features)
        return DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "data" / "clinc150"
    folder.mkdir(parents=True)
    for split in SPLITS:
        rows = [{"text": text, "label": label} for text, label in small_rows(split)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_there_are_ten_domains_of_fifteen_intents():
    assert len(DOMAIN_OF) == 150
    assert {len(intents.split()) for intents in INTENTS.values()} == {15}


def test_the_hub_is_asked_where_there_is_no_local_copy(hub):
    assert len(clinc150()) == 15
    assert hub == [("clinc/clinc_oos", "plus", REVISION)]


def test_either_source_gives_the_same_rows(hub, local):
    from_hub, from_files = clinc150(), clinc150(path=str(local))
    assert from_hub.labels == from_files.labels
    for ours, theirs in zip(from_hub.stages, from_files.stages, strict=True):
        assert [ours.split(name).to_list() for name in SPLITS] == [theirs.split(name).to_list() for name in SPLITS]


def test_the_data_folder_comes_before_the_hub(hub, local, monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(local.parent))
    assert len(clinc150()) == 15
    assert hub == []


def test_a_data_folder_without_the_set_leads_to_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path))
    clinc150()
    assert len(hub) == 1


@pytest.mark.parametrize("source", ["hub", "local"])
def test_out_of_scope_rows_are_left_out(hub, local, source):
    stream = clinc150(path=str(local) if source == "local" else None)
    assert "oos" not in stream.labels
    assert [sum(len(stage.split(name)) for stage in stream.stages) for name in SPLITS] == [300, 300, 300]


def test_domains_are_stages_that_carry_their_name(hub):
    stream = clinc150(stages_by="domains", order_seed=None)
    assert [stage.name for stage in stream.stages] == sorted(INTENTS)
    assert [stage.domain for stage in stream.stages] == sorted(INTENTS)
    assert stream.stages[1].labels == tuple(INTENTS["banking"].split())
    assert stream.scenario == "class_incremental"


def test_stages_name_source_and_licence(hub):
    stage = clinc150().stages[0]
    assert (stage.source, stage.licence, stage.language) == ("github.com/clinc/oos-eval", "CC BY 3.0", "en")


def test_a_label_that_is_no_intent_is_refused(local):
    with (local / "test.jsonl").open("a") as file:
        file.write('{"text": "x", "label": "sing"}\n')
    with pytest.raises(DataError, match=r"clinc150 test: labels must be the intents of CLINC150, got sing"):
        clinc150(path=str(local))


def test_a_copy_without_validation_is_refused(local):
    (local / "validation.jsonl").unlink()
    with pytest.raises(DataError, match=r"clinc150: must have a validation split, got train, test"):
        clinc150(path=str(local))


def test_a_hub_out_of_reach_is_an_error_that_says_what_to_set(monkeypatch):
    def load_dataset(*_, revision):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match=r"cannot be read from the hub .*: HF_HUB_OFFLINE is set.*; give stream.path or set CL_MLM_DATA"
    ):
        clinc150()


def test_labels_per_stage_must_divide_150(hub):
    with pytest.raises(
        ConfigError, match=r"^stream.labels_per_stage: must divide 150, got 40; allowed: 1, 2, 3, 5, 6, "
    ):
        clinc150(labels_per_stage=40)


def test_stages_by_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"stream.stages_by: must be labels or domains, got 'domain'"):
        clinc150(stages_by="domain")


def test_a_config_reaches_the_stream_by_its_name(hub):
    assert len(make_stream("clinc150", {"labels_per_stage": 50})) == 3


@real_data
@here
def test_the_real_set_has_15_stages_of_10_intents():
    stream = clinc150(path=str(DATA / "clinc150"))
    assert [len(stage.labels) for stage in stream.stages] == [10] * 15
    for name, size in (("train", 15000), ("validation", 3000), ("test", 4500)):
        assert [len(stage.split(name)) for stage in stream.stages] == [size // 15] * 15


@real_data
@here
def test_the_real_rows_are_those_of_the_files():
    stream = clinc150(path=str(DATA / "clinc150"), stages_by="domains")
    for name in SPLITS:
        expected = Counter((DATA / "clinc150" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        rows = [row for stage in stream.stages for row in stage.split(name).to_list()]
        assert Counter(json.dumps(row, ensure_ascii=False) for row in rows) == expected


@real_data
@here
def test_the_domains_are_those_of_the_authors():
    theirs = json.loads((DATA / "clinc150" / "domains.json").read_text())
    assert {domain: sorted(intents) for domain, intents in theirs.items()} == {
        domain: intents.split() for domain, intents in INTENTS.items()
    }
