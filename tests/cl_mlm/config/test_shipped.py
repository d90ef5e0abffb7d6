"""Rules of finding a config: a path, a bare name, or a message that names the nearest."""

import shutil
from pathlib import Path

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.config.shipped import config_file, shipped_configs
from cl_mlm.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_of_the_clone_is_shipped():
    assert {*shipped_configs()} == {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def test_a_bare_name_works_outside_the_clone():
    assert load_config("quickstart").experiment == "quickstart"


def test_in_the_clone_a_bare_name_is_shown_as_it_is_typed(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert config_file("quickstart") == Path("configs/quickstart.yaml")


def test_a_file_of_ones_own_comes_before_the_shipped_config(tmp_path):
    shutil.copyfile(shipped_configs()["quickstart"], tmp_path / "quickstart.yaml")
    assert config_file("quickstart") == Path("quickstart.yaml")
    (tmp_path / "quickstart").write_text("experiment: mine\n")
    assert config_file("quickstart") == Path("quickstart")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("quikstart", "no such file: quikstart (did you mean 'quickstart'?)"),
        ("mine/quikstart.yaml", "no such file: mine/quikstart.yaml (did you mean 'quickstart'?)"),
        ("own/tranig.yaml", "no such file: own/tranig.yaml (did you mean 'own/training.yaml'?)"),
        ("own/training.yml", "no such file: own/training.yml (did you mean 'own/training.yaml'?)"),
        ("configs/quickstart.yaml", "(the shipped one runs anywhere by its bare name: quickstart)"),
        ("own", "must be a file, got the folder 'own'"),
        (".", "must be a file, got the folder '.'"),
        ("xyzzy.yaml", "no such file: xyzzy.yaml; shipped configs: atis_intents, "),
    ],
)
def test_a_mistyped_path_is_told_with_the_nearest_config(tmp_path, given, hint):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "training.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError) as caught:
        config_file(given)
    (fault,) = caught.value.problems
    assert hint in fault
    assert "; shipped configs: atis_intents, " in fault
