"""Calls the hooks of strategies: what they raise is told with its place, and what they return must keep its rule."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from cl_mlm.errors import OwnCodeError, text_of
from cl_mlm.own_code import PAGES, OwnCode, broken, label_of
from cl_mlm.storage.state_files import plain_fault
from cl_mlm.training import hook_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.strategy import ParameterSettings, Strategy
    from cl_mlm.training.run import Run

KIND = "strategy"
EDITED = "modified by an inplace operation"  # as torch says it
SURROUNDINGS = (
    "torch.is_grad_enabled()",
    "torch.is_inference_mode_enabled()",
    "torch.get_default_dtype()",
    "torch.get_num_threads()",
    "torch.are_deterministic_algorithms_enabled()",
    "torch.get_default_device()",
    "run.model.training",
)


def call(run: Run, strategy: Strategy, hook: str, *arguments: Any, address: tuple[str | int, ...] = ()) -> Any:
    """Returns what a hook returns; `address` tells calls of one hook within a micro-batch apart.

    Raises:
        OwnCodeError: the hook raises, or leaves torch otherwise than it was.
    """
    who = told(run, strategy, hook)
    before = _surroundings(run)
    with OwnCode(KIND, who):
        view = run.view(strategy, hook, *address, refuse=partial(refuse_rows, run, strategy, hook))
        found = getattr(strategy, hook)(view, *arguments)
    _require_same(run, who, hook, before)
    return found


def _surroundings(run: Run) -> tuple[object, ...]:
    """Returns what every step depends on beside its rows and weights, by the names of `SURROUNDINGS`."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_device(),
        run.network.model.training,
    )


def _require_same(run: Run, who: str, hook: str, before: tuple[object, ...]) -> None:
    after = _surroundings(run)
    # Between stages the loop sets the mode of the model itself.
    for name, was, now in zip(SURROUNDINGS, before, after, strict=True):
        if was != now and (name != "run.model.training" or hook in hook_rules.EVERY_STEP):
            raise broken(KIND, who, f"{name} must be {was} again when the hook returns", now)


def _call_on(
    run: Run,
    strategy: Strategy,
    hook: str,
    batch: Batch,
    outputs: Outputs | None = None,
    *,
    address: tuple[str | int, ...] = (),
) -> Any:
    """Returns what a hook returns that reads a micro-batch, whose backward pass or next hook reads it again.

    Raises:
        OwnCodeError: the hook has edited it in place.
    """
    before = hook_rules.versions(batch, outputs)
    found = call(run, strategy, hook, *([batch] if outputs is None else [batch, outputs]), address=address)
    if hook == "memory" and hook_rules.iterable(found) is None:
        with OwnCode(KIND, told(run, strategy, hook)):
            found = list(found)  # a generator works only now
    changed = hook_rules.edited(before, hook_rules.versions(batch, outputs))
    rule = None if changed is None else "must leave batch and outputs as they are; `.clone()` is what may be edited"
    require(run, strategy, hook, rule, changed)
    return found


def told(run: Run, strategy: Strategy, hook: str) -> str:
    """Returns which hook of which strategy is called where, for a message."""
    step = f", step {run.place.step + 1}" if hook in hook_rules.EVERY_STEP else ""
    return f"strategy {label_of(type(strategy))}, hook {hook}, stage {run.stage.name!r}{step}"


def require(run: Run, strategy: Strategy, hook: str, rule: str | None, value: Any) -> None:
    """Refuses what a hook has returned.

    Raises:
        OwnCodeError: `rule`, which it breaks, is not None.
    """
    if rule is not None:
        raise broken(KIND, told(run, strategy, hook), rule, value)


def refuse_rows(run: Run, strategy: Strategy, hook: str, ids: Any) -> None:
    """Refuses ids that are none of training rows which the strategy may see."""
    rule = hook_rules.row_ids(run, strategy, ids)
    if rule is not None:
        raise broken(KIND, told(run, strategy, hook), f"the ids asked for {rule}", ids, is_calling=True)


def training_data(run: Run, strategy: Strategy) -> npt.NDArray[np.int64] | None:
    """Returns the rows that a strategy chooses; None: those of its regime."""
    ids: npt.NDArray[np.int64] | None = call(run, strategy, "training_data", run.stage)
    if ids is not None:
        require(run, strategy, "training_data", hook_rules.row_ids(run, strategy, ids), ids)
    return ids


def stage_event(run: Run, strategy: Strategy, hook: str) -> None:
    """Calls `before_stage` or `after_stage`, which may change the model's values but not its form.

    Raises:
        OwnCodeError: the form is another, nothing is left to train, or a weight is not finite.
    """
    before = hook_rules.form(run)
    found = call(run, strategy, hook, run.stage)
    require(run, strategy, hook, hook_rules.nothing(found), found)
    require(run, strategy, hook, *hook_rules.same_form(before, hook_rules.form(run)))
    if not run.network.trainable():
        require(run, strategy, hook, "must leave a parameter to train (`requires_grad`)", 0)
    if strategy.overrides(hook):
        _require_finite(run, strategy, hook)


def _require_finite(run: Run, strategy: Strategy, hook: str) -> None:
    """Refuses weights that are not finite, of which no score would mean anything; waits for the device once."""
    bad = run.network.not_finite()
    rule = f"must leave every weight finite; {len(bad)} are not, the first in {bad[0]}" if bad else None
    require(run, strategy, hook, rule, math.nan)


def require_form(run: Run, before: hook_rules.Form) -> None:
    """Refuses a model whose form has changed while the steps of a stage were taken.

    Raises:
        OwnCodeError: naming every strategy with hooks in steps.
    """
    rule, value = hook_rules.same_form(before, hook_rules.form(run))
    if rule is not None:
        raise broken(KIND, _acting(run), rule, value)


def explain(run: Run, form: hook_rules.Form, error: Exception) -> None:
    """Raises what is behind an error of torch in a step, where a strategy is: else the error says nothing of it.

    Args:
        run: its place is the step.
        form: of the model when the stage began.
        error: of the step.

    Raises:
        OwnCodeError: the model has another form, or what the backward pass reads was edited.
    """
    require_form(run, form)
    who = _acting(run)
    if who and EDITED in text_of(error):
        raise OwnCodeError(
            f"{who}: must leave batch, outputs and weights as they are until the backward pass is done; "
            f"{PAGES[KIND]} describes it"
        ) from error


def _acting(run: Run) -> str:
    """Returns every strategy with hooks in steps, those hooks, and where; empty where there is none."""
    hooks_of = {s: [hook for hook in hook_rules.EVERY_STEP if s.overrides(hook)] for s in run.strategies}
    who = [f"strategy {label_of(type(s))} ({', '.join(hooks)})" for s, hooks in hooks_of.items() if hooks]
    return f"{' or '.join(who)}, stage {run.stage.name!r}" if who else ""


def parameter_settings(run: Run) -> dict[str, ParameterSettings]:
    """Returns the settings that strategies give single trainable parameters, by name."""
    known = run.network.trainable()
    given: dict[str, ParameterSettings] = {}
    for strategy in run.strategies:
        found = call(run, strategy, "parameter_settings")
        require(run, strategy, "parameter_settings", hook_rules.mapping(found), found)
        for name, settings in found.items():
            require(run, strategy, "parameter_settings", *hook_rules.settings(name, settings, known, given))
        given |= found
    return given


def before_step(run: Run, strategy: Strategy) -> None:
    """Tells a strategy that an attempt at a step begins."""
    found = call(run, strategy, "before_step")
    require(run, strategy, "before_step", hook_rules.nothing(found), found)


def allowed_classes(run: Run, strategy: Strategy, batch: Batch, address: tuple[str | int, ...]) -> torch.Tensor | None:
    """Returns the classes that a strategy allows, bool (R, C); None: all."""
    found: torch.Tensor | None = _call_on(run, strategy, "allowed_classes", batch, address=address)
    if found is not None:
        require(run, strategy, "allowed_classes", hook_rules.allowed(run, batch, found), found)
    return found


def memory(run: Run, strategy: Strategy, batch: Batch) -> list[tuple[float, Batch]]:
    """Returns the weights and batches of a strategy's memory."""
    found = _call_on(run, strategy, "memory", batch)
    require(run, strategy, "memory", hook_rules.iterable(found), found)
    for pair in found:
        require(run, strategy, "memory", *hook_rules.memory(run, pair))
    return [(float(weight), rows) for weight, rows in found]


def loss_terms(
    run: Run, strategy: Strategy, batch: Batch, outputs: Outputs, address: tuple[str | int, ...]
) -> Mapping[str, torch.Tensor]:
    """Returns the terms that a strategy adds to the loss, scalars on the device of the loss."""
    found = _call_on(run, strategy, "loss_terms", batch, outputs, address=address)
    terms = _values(run, strategy, "loss_terms", found)
    for name in [name for name, term in terms.items() if not term.requires_grad]:
        flag = f"strategy {label_of(type(strategy))}: {name} has no gradient, so that it is logged and trains nothing"
        if flag not in run.cost.flags:
            run.cost.flags.append(flag)
    return terms


def _values(run: Run, strategy: Strategy, hook: str, found: Any) -> Mapping[str, torch.Tensor]:
    """Returns the values that a hook has named, checked."""
    require(run, strategy, hook, hook_rules.mapping(found), found)
    owner = (type(strategy), hook)
    for name, term in found.items():
        require(run, strategy, hook, *hook_rules.value(run, name, term))
        first = run.terms.setdefault(name, owner)
        if first != owner:
            rule = f"a value's name must be its own; {label_of(first[0])}, hook {first[1]}, has this one"
            require(run, strategy, hook, rule, name)
    values: Mapping[str, torch.Tensor] = found
    return values


def observe_gradients(run: Run, strategy: Strategy) -> None:
    """Lets a strategy read the gradients of the loss."""
    before = hook_rules.gradient_versions(run)
    found = call(run, strategy, "observe_gradients")
    require(run, strategy, "observe_gradients", hook_rules.nothing(found), found)
    changed = [name for name, now in hook_rules.gradient_versions(run).items() if now != before[name]]
    if changed:
        require(run, strategy, "observe_gradients", "must leave `.grad` as it is; `adjust_gradients` edits", changed[0])


def adjust_gradients(run: Run, strategy: Strategy) -> Mapping[str, torch.Tensor]:
    """Lets a strategy edit the gradients; returns the values that it logs, scalars."""
    return _values(run, strategy, "adjust_gradients", call(run, strategy, "adjust_gradients"))


def after_step(run: Run, strategy: Strategy) -> None:
    """Tells a strategy that the weights have moved."""
    found = call(run, strategy, "after_step")
    require(run, strategy, "after_step", hook_rules.nothing(found), found)


@contextmanager
def evaluation(run: Run, strategy: Strategy, columns: Sequence[str]) -> Iterator[None]:
    """Surrounds a scoring by a strategy's `evaluation`; an error of the scoring passes whatever the strategy does."""
    manager = call(run, strategy, "evaluation", columns)
    require(run, strategy, "evaluation", hook_rules.context(manager), manager)
    who = told(run, strategy, "evaluation")
    with OwnCode(KIND, who):
        manager.__enter__()
    try:
        if strategy.overrides("evaluation"):
            _require_finite(run, strategy, "evaluation")
        yield
    except BaseException:
        manager.__exit__(*sys.exc_info())
        raise
    with OwnCode(KIND, who):
        manager.__exit__(None, None, None)


def buffer_bytes(run: Run, strategy: Strategy) -> int:
    """Returns the bytes of the rows that a strategy keeps."""
    found: int = call(run, strategy, "buffer_bytes")
    require(run, strategy, "buffer_bytes", hook_rules.count(found), found)
    return found


def state_of(run: Run, strategy: Strategy) -> Mapping[str, Any]:
    """Returns a strategy's state, which can be written down and read again.

    Raises:
        OwnCodeError: it holds other than tensors and plain values, or the model's own tensors.
    """
    who = told(run, strategy, "state_dict")
    with OwnCode(KIND, who):
        state = strategy.state_dict()
    require(run, strategy, "state_dict", hook_rules.mapping(state), state)
    fault = plain_fault(state) or hook_rules.models_own(run, state)
    if fault is not None:
        raise OwnCodeError(f"{who}: {fault}; {PAGES[KIND]} describes it")
    return cast("Mapping[str, Any]", state)


def states_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """Returns the state of every strategy, by its place in the run."""
    return {str(i): state_of(run, strategy) for i, strategy in enumerate(run.strategies)}


def restore(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Gives a strategy the state that it had."""
    with OwnCode(KIND, f"strategy {label_of(type(strategy))}, hook load_state_dict"):
        strategy.load_state_dict(state)


def signature(run: Run, strategy: Strategy) -> Mapping[str, Any] | None:
    """Returns what of a strategy can change what training the present stage computes; None: nothing."""
    with OwnCode(KIND, told(run, strategy, "training_signature")):
        found = strategy.training_signature(run.place.stage_index)
    if found is not None:
        require(run, strategy, "training_signature", hook_rules.mapping(found), found)
    return found
