"""Rules of what hooks return that no run of the other tests breaks."""

from types import SimpleNamespace

import numpy as np
import torch

from cl_mlm.training.hook_rules import models_own


def test_a_state_may_hold_arrays_in_any_order_and_read_only_ones():
    model = torch.nn.Linear(2, 3)
    run = SimpleNamespace(network=SimpleNamespace(model=model))
    read_only = np.arange(3.0)
    read_only.flags.writeable = False
    assert models_own(run, {"reversed": np.arange(3.0)[::-1], "read_only": read_only, "copy": np.arange(3.0)}) is None
    fault = models_own(run, {"kept": [1, model.weight.detach().numpy()]})
    assert fault == "state/kept/1: must be a copy (`.detach().clone()`), got the model's own tensor"
