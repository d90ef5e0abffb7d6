"""Rules of paths: any character may stand in those of a config, of data, of an output and of a run."""

import logging
import os
import shutil
import sys

import pytest

from cl_mlm.config.layers import read_layer, read_override
from cl_mlm.config.undecodable import to_yaml
from cl_mlm.tracking.mlflow_delivery import Link

NAME = "fö ö\udcff'\"x\n$y"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names elsewhere are text")


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """An empty folder with an odd name, which is the working folder."""
    # What is logged goes into pytest's report, which must be text where tests run side by side.
    logger = logging.getLogger("cl_mlm")
    logger.setLevel(logging.CRITICAL)
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path / NAME)
    yield tmp_path / NAME
    logger.setLevel(logging.NOTSET)


def test_every_command_takes_a_path_with_any_characters(cli, fast, data_folder, write_config, odd, own_store):
    shutil.copytree(data_folder, odd / "d\udcfe")
    fast["stream"]["path"] = "d\udcfe"
    fast["output"] = "r\udcfd ns"
    fast["training"]["steps"] = 2
    del fast["tracking"]
    config = odd / "-ö\udcff.yaml"
    config.write_text(to_yaml(fast))
    assert cli("check", "--", config.name).code == 0
    ran = cli("run", config)
    assert (ran.code, "warning" in ran.out) == (0, False)
    (folder,) = (odd / "r\udcfd ns" / "fast").iterdir()
    assert f"run: $'r\\375 ns/fast/{folder.name}'" in ran.out
    assert Link.load(folder).offset == (folder / "journal.jsonl").stat().st_size
    (folder / "summary.json").unlink()
    for arguments in [
        ("resume", folder),
        ("resume", folder),
        ("compare", folder.parent),
        ("compare", folder.parent, "--markdown"),
        ("predict", folder, "snow ö"),
        ("verify", folder),
        ("sync", folder),
        ("rerun", folder),
    ]:
        said = cli(*arguments)
        assert said.code == 0, (arguments, said)
    assert cli("predict", folder, "snow \udcff").err == "error: predict: a text must be UTF-8, got 'snow \\udcff'\n"


def test_a_store_below_a_path_that_is_no_text_is_a_warning(cli, fast, write_config, odd):
    fast["training"]["steps"] = 1
    fast["tracking"] = {"uri": "sqlite:///m.db"}
    said = cli("run", write_config(odd / "a.yaml", fast))
    assert said.code == 0
    assert "m.db': must lie below a path that is UTF-8; MLFLOW_TRACKING_URI names another store" in said.out
    assert not os.path.lexists(odd / "m.db")


@pytest.mark.parametrize("text", ["a\udcff", "\udc80'\"\n\\", "plain ö", "\\udcff", "x\U0010fe7f"])
def test_yaml_gives_back_a_path_that_is_no_text(text, tmp_path):
    values = {"output": text, "stream": {"paths": [text, 1]}}
    written = to_yaml(values)
    (tmp_path / "a.yaml").write_text(written, encoding="utf-8")
    assert read_layer(tmp_path / "a.yaml") == values


def test_an_override_gives_back_a_path_that_is_no_text():
    assert read_override("output=r\udcfd ns") == {"output": "r\udcfd ns"}
