"""The name of an arm in config, hash and folder."""

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError

ARMS = {"small": {"strategies": {"replay": {"capacity": 9}}}, "er 20/a": {"strategies": {"replay": {"capacity": 9}}}}


def load(*overrides, arm=None, **settings):
    return load_config({"stream": "phrasebook", **settings}, overrides, arm)


def test_a_run_of_an_arm_is_called_after_it_and_keeps_its_hash():
    by_hand = load(strategies={"replay": {"capacity": 9}})
    by_arm = load(arms=ARMS, arm="small")
    assert by_hand.run_name.startswith("replay-seed0-")
    assert by_arm.run_name == by_hand.run_name.replace("replay", "small", 1)
    assert by_arm.identity() == by_hand.identity()
    assert (by_arm.label, by_arm.arm) == ("replay", "small")


def test_the_resolved_config_of_an_arm_gives_the_same_run():
    config = load(arms=ARMS, arm="er 20/a")
    again = load_config(config.to_dict())
    assert again == config
    assert again.run_name.startswith("er-20-a-seed0-")


def test_a_run_without_an_arm_has_no_such_key():
    assert "arm" not in load().to_dict()


@pytest.mark.parametrize("name", ["ewc+replay", "Ёж_1", "lr=0.1"])
def test_a_name_that_a_folder_may_have_stays(name):
    assert load(arms={name: {}}, arm=name).run_name.startswith(f"{name}-seed0-")


@pytest.mark.parametrize("name", ["../up", ".hidden", "-x", "a\nb", "x" * 300])
def test_no_name_leads_out_of_the_folder_or_is_too_long(name):
    folder = load(arms={name: {}}, arm=name).run_name
    assert folder[0].isalnum()
    assert "/" not in folder
    assert folder.isprintable()
    assert len(folder) < 80


@pytest.mark.parametrize("name", ["", " ", "//", "..."])
def test_a_name_without_letter_and_digit_is_refused(name):
    with pytest.raises(ConfigError, match="arm: must hold a letter or a digit"):
        load(arms={name: {}}, arm=name)
    with pytest.raises(ConfigError, match="arm: must hold a letter or a digit"):
        load_config({"stream": "phrasebook", "arm": name})


def test_the_key_does_not_choose_among_declared_arms():
    with pytest.raises(ConfigError, match=r"arm: must not be set where a config has `arms`; --arm chooses .* 'small'"):
        load("arm=small", arms=ARMS)


def test_a_smoke_run_is_not_called_like_a_run_of_its_arm():
    assert load(arms=ARMS, arm="small", limit=20).run_name.startswith("limit20-small-seed0-")
