"""Rules of reading from the hub: one retry, then the cache at once, then a message that says what can be done."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from cl_mlm.data import hub_access
from cl_mlm.data.hub_access import HubUnreachableError, from_hub


class TransportError(Exception):
    """As httpx names it: no kind of Python's ConnectionError."""


@pytest.fixture
def asked(monkeypatch):
    """Lets the hub be asked, by a stand-in that counts; `asked.fault` is what it raises."""
    stand_in = SimpleNamespace(probes=0, loads=0, pauses=0.0, fault=None, offline=[])

    def head(*arguments, timeout):
        assert timeout <= 5
        stand_in.probes += 1
        if stand_in.fault is not None:
            raise stand_in.fault
        return "an answer"

    def sleep(seconds):
        stand_in.pauses += seconds

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(hub_access.time, "sleep", sleep)
    hub_access._answers.cache_clear()
    yield stand_in
    hub_access._answers.cache_clear()


def loader(stand_in, *outcomes):
    """Returns what reads from the hub: it raises or returns the outcomes one after the other."""
    left = list(outcomes)

    def load():
        stand_in.loads += 1
        stand_in.offline.append(constants.is_offline_mode())
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return load


def wrapped(fault):
    """Returns the error of a library that was raised from another one."""
    try:
        raise OSError("cannot load the files") from fault
    except OSError as error:
        return error


def test_what_the_hub_has_is_returned(asked):
    assert from_hub(loader(asked, "a model")) == "a model"
    assert (asked.probes, asked.loads, asked.pauses) == (1, 1, 0)


@pytest.mark.parametrize("fault", [ConnectionError("no route"), TimeoutError("slow"), TransportError("refused")])
def test_a_hub_that_does_not_answer_is_asked_once_more_and_then_the_cache_is_read(asked, fault):
    asked.fault = fault
    with pytest.raises(HubUnreachableError) as caught:
        from_hub(loader(asked, OSError("not in the cache")))
    assert (asked.probes, asked.loads, asked.offline) == (2, 1, [True])
    assert asked.pauses <= 2
    assert "does not answer, asked twice" in str(caught.value)
    assert "HF_HUB_OFFLINE=1" in str(caught.value)
    assert constants.is_offline_mode() is False


def test_without_a_network_the_cache_serves(asked):
    asked.fault = ConnectionError("no route")
    assert from_hub(loader(asked, "a cached model")) == "a cached model"


def test_the_second_file_does_not_wait_again(asked):
    asked.fault = ConnectionError("no route")
    for _ in range(3):
        with pytest.raises(HubUnreachableError):
            from_hub(loader(asked, OSError("not in the cache")))
    assert asked.probes == 2


@pytest.mark.parametrize("fault", [ConnectionError("reset"), wrapped(TransportError("reset"))])
def test_a_connection_that_breaks_is_tried_once_more(asked, fault):
    assert from_hub(loader(asked, fault, "a model")) == "a model"
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE=1"):
        from_hub(loader(asked, fault, fault, "never asked for"))
    assert asked.loads == 4


def test_another_error_is_not_tried_again(asked):
    with pytest.raises(OSError, match="no such repository"):
        from_hub(loader(asked, OSError("no such repository")))
    assert asked.loads == 1


def test_with_the_switch_set_nobody_is_asked(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set, and the cache does not hold it"):
        from_hub(loader(asked, OSError("not in the cache")))
    assert (asked.probes, asked.loads, asked.pauses) == (0, 1, 0)


def test_models_and_tokenizers_name_the_local_folder(asked):
    from cl_mlm.config.schema import ModelConfig
    from cl_mlm.errors import UnreachableModelError
    from cl_mlm.models.tokenizers import load_tokenizer

    asked.fault = ConnectionError("no route")
    with pytest.raises(UnreachableModelError) as caught:
        load_tokenizer(ModelConfig(name="some/encoder"))
    for part in ("model.name: cannot load 'some/encoder'", "HF_HUB_OFFLINE=1", "model.name=FOLDER reads a local copy"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["hub", "clinc150"])
def test_data_sets_name_the_local_folder(asked, monkeypatch, name):
    from cl_mlm.config import find
    from cl_mlm.errors import DataError

    monkeypatch.delenv("CL_MLM_DATA", raising=False)
    asked.fault = ConnectionError("no route")
    arguments = {"dataset": "some/rows", "revision": "main"} if name == "hub" else {}
    with pytest.raises(DataError) as caught:
        find("stream", name)(**arguments)
    for part in ("cannot be read from the hub", "asked twice", "HF_HUB_OFFLINE=1", "stream.path"):
        assert part in str(caught.value)
