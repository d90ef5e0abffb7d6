import os

import pytest
import torch

from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config, TrainingConfig
from cl_mlm.errors import ConfigError, TrainingError
from cl_mlm.training import determinism as module
from cl_mlm.training.determinism import VARIABLE, check_determinism, determinism

ON, OFF = (TrainingConfig(deterministic=value, device="cpu") for value in (True, False))
ON_CUDA = TrainingConfig(deterministic=True, device="cuda")


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get(VARIABLE),
    )


@pytest.mark.parametrize("error", [None, ValueError])
def test_torch_is_told_for_the_time_of_a_run_and_then_put_back(error, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    try:
        with determinism(ON):
            assert settings() == (True, False, True, False, ":4096:8")
            if error is not None:
                raise error
    except ValueError:
        pass
    assert settings() == before
    with determinism(OFF):
        assert settings() == before


def test_what_a_users_process_had_set_is_there_again(monkeypatch):
    monkeypatch.setenv(VARIABLE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with determinism(ON):
            assert settings()[-1] == ":16:8"
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert settings()[:2] == (True, True)
        assert os.environ[VARIABLE] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_without_an_order_ends_the_run_with_what_to_change():
    with (
        pytest.raises(TrainingError, match=r"training\.deterministic: put_ does not .* training\.device=cpu, or"),
        determinism(ON),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))


@pytest.mark.parametrize("given", [":8:8", ""])
def test_another_workspace_of_cublas_is_refused_on_cuda_only(given, monkeypatch):
    monkeypatch.setenv(VARIABLE, given)
    check_determinism(ON)
    with pytest.raises(ConfigError, match=r"training\.deterministic: needs .* to be :4096:8 or :16:8 or not set"):
        check_determinism(ON_CUDA)


@pytest.mark.parametrize(("initialised", "takes", "refused"), [(False, False, False), (True, True, False)])
def test_cuda_that_can_still_be_told_is_let_through(initialised, takes, refused, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr(module, "_takes_effect", lambda training: takes)
    check_determinism(ON_CUDA)


def test_cuda_that_began_before_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(module, "_takes_effect", lambda training: False)
    with pytest.raises(
        ConfigError, match=r"cannot take effect any more.*start Python anew with CUBLAS_WORKSPACE_CONFIG"
    ):
        check_determinism(ON_CUDA)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_cuda_the_first_product_decides(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    check_determinism(ON_CUDA)
    with determinism(ON_CUDA):
        ones = torch.ones(8, 8, device="cuda")
        assert float((ones @ ones).sum()) == 512
    check_determinism(ON_CUDA)


def test_the_key_is_part_of_a_runs_identity_only_where_it_is_set():
    layer = {"stream": {"name": "phrasebook"}}
    plain, off = load_config(layer), load_config(layer, ["training.deterministic=false"])
    on = load_config(layer, ["training.deterministic=true"])
    assert "deterministic" not in plain.to_dict()["training"]
    assert plain.run_name == off.run_name != on.run_name
    assert Config(training=ON).to_dict()["training"]["deterministic"] is True


def test_a_run_is_deterministic_and_leaves_nothing_behind(fast, monkeypatch):
    import cl_mlm
    from cl_mlm.training.loop import StageTraining

    seen, take_step = [], StageTraining.take_step

    def look(self, micro_batches):
        seen.append(settings()[0])
        take_step(self, micro_batches)

    monkeypatch.setattr(StageTraining, "take_step", look)
    before = settings()
    fast["training"] |= {"steps": 1, "deterministic": True}
    del fast["training"]["epochs"]
    result = cl_mlm.run(fast, strategies={"ewc": {}}, progress=False)
    assert seen == [True, True]
    assert settings() == before
    assert result.summary["settings"]["training"]["deterministic"] is True
