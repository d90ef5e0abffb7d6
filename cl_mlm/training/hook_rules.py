"""What the hooks of a strategy may return: one function a hook, which says what is wrong, or None.

They read types and shapes only: none waits for the device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from cl_mlm.batch import Batch
from cl_mlm.strategy import ParameterSettings
from cl_mlm.stream import unpack_row_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cl_mlm.batch import Outputs
    from cl_mlm.strategy import Strategy
    from cl_mlm.training.run import Run

EVERY_STEP: Final = (
    "before_step",
    "allowed_classes",
    "loss_terms",
    "memory",
    "observe_gradients",
    "adjust_gradients",
    "after_step",
)
Form = dict[str, str]
Versions = dict[str, tuple[torch.Tensor, int]]
Fault = tuple[str | None, Any]  # the rule that is broken, None where none is, and the value that breaks it


def row_ids(run: Run, strategy: Strategy, ids: Any) -> str | None:
    """Rows that a strategy trains on or reads by their ids, each as often as it is named."""
    if not (isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.ndim == 1):
        return "must be row ids, a NumPy array of int64 and one axis (`run.training_ids`, `cl_mlm.stream.pack_row_ids`)"
    if not len(ids):
        return None
    stages, positions = unpack_row_ids(ids)
    present, oldest, newest = run.place.stage_index, int(stages.min()), int(stages.max())
    is_foreign = oldest < 0 or newest >= len(run.stream) or bool((positions >= run.data.counts(stages)).any())
    rules = [
        (is_foreign, f"must name training rows that there are, of stages 0 to {len(run.stream) - 1}"),
        (
            newest > present and "future" not in strategy.needs,
            f"must name rows of this stage ({present}) or earlier ones, unless `needs` holds 'future'",
        ),
        (
            oldest < present and "old_rows" in run.stream.withheld,
            f"must name rows of this stage ({present}), for `stream.withhold` holds old_rows",
        ),
    ]
    return next((rule for is_broken, rule in rules if is_broken), None)


def allowed(run: Run, batch: Batch, mask: Any) -> str | None:
    """Classes among which the loss of every row runs."""
    rule = f"must be None or a bool tensor of shape (rows, classes) on {batch.device}"
    is_mask = isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.ndim == 2
    if not is_mask or mask.device != batch.device or len(mask) != len(batch):
        return f"{rule}: {len(batch)} rows here"
    known = run.task_of(batch).labels.num_classes
    if known and mask.shape[1] != known:
        return f"{rule}: {known} classes known here (`run.labels.num_classes`)"
    return None


def memory(run: Run, pair: Any) -> Fault:
    """One pair of a weight and a memory batch."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], Batch)):
        return "must be pairs of a weight and a batch (`run.rows(ids)`)", pair
    weight, batch = pair
    rules = [
        (_is_finite(weight), "the weight of a batch must be a finite number", weight),
        (len(batch) > 0, "a batch must have rows; () where there are none", len(batch)),
        (batch.split == "train", "a batch must be of training rows", batch.split),
        (batch.device == run.network.device, f"a batch must be on {run.network.device}", batch.device),
        (_is_on_cpu(batch.count), "`count` of a batch must be a tensor on the CPU", batch.count),
    ]
    return next(((rule, found) for is_kept, rule, found in rules if not is_kept), (None, None))


def _is_finite(weight: Any) -> bool:
    try:
        return isinstance(weight, Real) and math.isfinite(float(weight))
    except OverflowError:  # a whole number or a fraction beyond the range of a float
        return False


def _is_on_cpu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"


def iterable(found: Any) -> str | None:
    """What may hold pairs."""
    is_one = isinstance(found, Iterable) and not isinstance(found, Mapping | str | torch.Tensor | Batch)
    return None if is_one else "must be a list of pairs of a weight and a batch; () where there are none"


def value(run: Run, name: Any, term: Any) -> Fault:
    """One named value of `loss_terms` or `adjust_gradients`."""
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        return "a value's name must be a printable text", name
    is_scalar = isinstance(term, torch.Tensor) and term.ndim == 0 and term.is_floating_point()
    if not is_scalar or term.device != run.network.device:
        return f"{name!r} must be a floating-point tensor without axes on {run.network.device}", term
    return None, None


def nothing(found: Any) -> str | None:
    """A hook that returns nothing: a generator or a coroutine has not even begun."""
    if inspect.isgenerator(found) or inspect.isawaitable(found):
        return "must be an ordinary function without `yield` and `async`, whose work is done when it returns"
    return None


def context(found: Any) -> str | None:
    """What surrounds an evaluation."""
    is_one = hasattr(type(found), "__enter__") and hasattr(type(found), "__exit__")
    return None if is_one else "must be a context manager (`contextlib.contextmanager` makes one of a generator)"


def mapping(found: Any) -> str | None:
    """A mapping by name."""
    return None if isinstance(found, Mapping) else "must be a mapping by name; {} where there is nothing"


def settings(name: Any, found: Any, known: Mapping[str, Any], given: Mapping[str, Any]) -> Fault:
    """How one parameter is moved: `known` are the trainable ones, `given` those that another strategy sets."""
    if name not in known:
        return "must name trainable parameters (`run.trainable()`)", name
    if name in given:
        return "must leave to another strategy the parameters that it has set", name
    if not isinstance(found, ParameterSettings):
        return "must hold a `cl_mlm.strategy.ParameterSettings` for each parameter", found
    numbers: dict[str, Any] = {"lr_factor": found.lr_factor, "weight_decay": found.weight_decay or 0.0}
    for key, number in numbers.items():
        if not (isinstance(number, Real) and 0 <= float(number) < math.inf):
            return f"{name}: {key} must be a finite number from 0", number
    return None, None


def count(found: Any) -> str | None:
    """A number of bytes."""
    return None if isinstance(found, int | np.integer) and found >= 0 else "must be a whole number from 0"


def form(run: Run) -> Form:
    """Returns what of the model's parameters stays the same within a stage, by name."""
    return {name: f"{tuple(p.shape)}, {p.dtype} on {p.device}" for name, p in run.network.model.named_parameters()}


def same_form(before: Form, after: Form) -> Fault:
    """The model before and after what must leave its form."""
    rule = "must leave the model's parameters their names, shapes, types and devices"
    if gone := [name for name in before if name not in after]:
        return f"{rule}: {gone[0]} is gone", [name for name in after if name not in before][:1] or "none in its place"
    if new := [name for name in after if name not in before]:
        return f"{rule}: {new[0]} is new, and no checkpoint would keep it", after[new[0]]
    changed = [name for name in before if before[name] != after[name]]
    return (f"{rule}: {changed[0]} was {before[changed[0]]}", after[changed[0]]) if changed else (None, None)


def models_own(run: Run, state: Any) -> str | None:
    """A state that holds a tensor of the model itself, which goes on changing with it."""
    model = run.network.model
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())} - {0}
    place = next((path for path, tensor in _tensors(state, "") if tensor.untyped_storage().data_ptr() in own), None)
    return None if place is None else f"state{place}: must be a copy (`.detach().clone()`), got the model's own tensor"


def _tensors(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, np.ndarray):
        if value.flags.writeable and min(value.strides, default=0) >= 0:
            yield path, torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}/{i}")


def versions(batch: Batch, outputs: Outputs | None) -> Versions:
    """Returns what a backward pass reads and a hook may only read, with what counts the edits of each, by name."""
    tensors: dict[str, Any] = {f"batch.{name}": value for name, value in vars(batch).items()}
    tensors |= {f"batch.inputs[{name!r}]": value for name, value in batch.inputs.items()}
    tensors |= {f"batch.extra[{name!r}]": value for name, value in batch.extra.items()}
    tensors |= {} if outputs is None else {"outputs.logits": outputs.logits}
    found = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {name: (value, 0 if value.is_inference() else value._version) for name, value in found.items()}


def edited(before: Versions, after: Versions) -> str | None:
    """Returns the first name of what was edited or exchanged in between; None: nothing was."""
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if was is None or now is None or was[0] is not now[0] or was[1] != now[1]:
            return name
    return None


def gradient_versions(run: Run) -> dict[str, tuple[int, int] | None]:
    """Returns what changes with every edit of a parameter's gradient, by name; nothing is read from the device."""
    gradients = {name: parameter.grad for name, parameter in run.network.trainable().items()}
    return {name: None if g is None else (id(g), g._version) for name, g in gradients.items()}
