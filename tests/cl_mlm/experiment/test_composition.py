"""Which strategies may work together."""

import pytest
from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.experiment.composition import check_composition
from cl_mlm.strategy import Strategy
from strategies.cumulative import Cumulative
from strategies.ewc import Ewc
from strategies.joint import Joint
from strategies.lwf import Lwf
from strategies.replay import Replay


class ChoosesAll(Strategy):
    """Chooses the training rows."""

    @override
    def training_data(self, run, stage):
        return run.training_ids


class ChoosesNone(Strategy):
    """Chooses them too."""

    @override
    def training_data(self, run, stage):
        return None


@pytest.mark.parametrize("alone", [Joint(), Cumulative()])
@pytest.mark.parametrize("other", [Replay(), Ewc(), Lwf()])
def test_training_on_all_rows_stands_alone(alone, other):
    for pair in ([alone, other], [other, alone]):
        with pytest.raises(ConfigError, match=rf"{alone.name} .* stands alone, got it with {other.name}"):
            check_composition(pair)


def test_joint_and_cumulative_do_not_go_together():
    with pytest.raises(ConfigError, match=r"joint .* got it with cumulative"):
        check_composition([Joint(), Cumulative()])


def test_two_strategies_that_choose_rows_are_refused():
    with pytest.raises(ConfigError, match="only one may choose the training rows, got choosesall, choosesnone"):
        check_composition([ChoosesAll(), ChoosesNone()])


def test_one_class_twice_is_refused():
    with pytest.raises(ConfigError, match="each may be given once, got ewc twice"):
        check_composition([Ewc(weight=1), Replay(), Ewc(weight=2)])


def test_penalty_replay_and_distillation_compose():
    check_composition([Ewc(), Replay(), Lwf()])
