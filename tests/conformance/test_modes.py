"""Each mode of fine-tuning with each objective, alone and under strategies: it trains its part, or says why it cannot.

The whole matrix runs with `make conformance`; by default a part of it.
"""

import pytest

from cl_mlm.errors import ConfigError

from .conftest import OBJECTIVES

MODES = {
    "bitfit": {"mode": "bitfit"},
    "norm": {"mode": "norm"},
    "last_k": {"mode": "last_k", "last_blocks": 1},
    "lora": {"mode": "lora"},
    "all-linear": {"mode": "lora", "targets": "all-linear", "scaling": "root"},
    "dora": {"mode": "lora", "dora": True},
    "ia3": {"mode": "ia3"},
    "bottleneck": {"mode": "bottleneck", "width": 16},
    "pfeiffer": {"mode": "bottleneck", "width": 16, "placement": "pfeiffer", "start": "normal"},
    "prompt": {"mode": "prompt", "virtual_tokens": 5},
    "p_tuning": {"mode": "p_tuning", "virtual_tokens": 5},
    "prefix": {"mode": "prefix", "virtual_tokens": 5},
    "projected prefix": {"mode": "prefix", "virtual_tokens": 5, "prefix_projection": True, "hidden_size": 16},
}
REPLAY, EWC, LWF = {"replay": {"capacity": 6}}, {"ewc": {"weight": 5.0, "fisher": "empirical"}}, {"lwf": {}}
STRATEGIES = {"naive": {}, "replay": REPLAY, "ewc": EWC, "lwf": LWF, "replay+ewc": REPLAY | EWC}
BY_DEFAULT = [
    ("lora", "classification", "replay+ewc"),
    ("ia3", "causal", "ewc"),
    ("bottleneck", "classification, decoder", "lwf"),
    ("pfeiffer", "text_to_text, encoder-decoder", "ewc"),
    ("prompt", "mixed", "lwf"),
    ("p_tuning", "text_to_text, decoder", "replay"),
    ("prefix", "classification, decoder", "replay+ewc"),
    ("projected prefix", "tagging", "naive"),
    ("dora", "tagging", "lwf"),
    ("bitfit", "classification, decoder", "naive"),
    ("last_k", "text_to_text, encoder-decoder", "replay"),
    ("all-linear", "mixed", "ewc"),
]
# Frozen but for these: their model has no biases.
WITHOUT_BIASES = {"text_to_text, encoder-decoder"}
CASES = [
    pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.conformance)
    for case in ((mode, name, strategy) for mode in MODES for name in (*OBJECTIVES, "mixed") for strategy in STRATEGIES)
]


@pytest.mark.parametrize(("mode", "name", "strategy"), CASES)
def test_a_mode_trains_two_stages_or_says_why_it_cannot(mode, name, strategy, bits_of, assert_equal_bits):
    finetuning = MODES[mode]
    try:
        found = bits_of(name, STRATEGIES[strategy], finetuning=finetuning)
    except ConfigError as error:
        said = str(error)
        if mode == "bitfit" and name in WITHOUT_BIASES | {"classification, decoder", "causal", "packed"}:
            assert "finetuning.mode: bitfit trains the body's biases, of which" in said
        elif "prefix" in mode and not name.endswith("decoder") and name not in ("causal", "packed"):
            assert "finetuning.mode: prefix puts keys and values before the text's, which an encoder's" in said
        else:  # what the strategy refuses under `full`, too
            assert f"strategies.{'lwf' if 'lwf' in strategy else 'ewc'}." in said
            with pytest.raises(ConfigError):
                bits_of(name, STRATEGIES[strategy])
        return
    tensors, _, scores = found
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    assert len(scores) == 2
    assert_equal_bits(found, bits_of(name, STRATEGIES[strategy], finetuning=finetuning))
