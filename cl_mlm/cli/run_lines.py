"""The first lines of a command that trains, before anything heavy is imported, and its last ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ClMlmError, ConfigError
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.config.arms import Variant
    from cl_mlm.experiment.result import Result


def opening_lines(config: Path, overrides: Sequence[str], variants: Sequence[Variant]) -> list[str]:
    """Returns what a command will run and where it will be found, by the config as it is written: nothing is checked.

    Faults are left to the check, which tells all of them; what they hide is not shown.
    """
    from importlib.metadata import version

    from cl_mlm.config.layers import ARMS, arm_layers, merge, read_layer, read_override
    from cl_mlm.config.shipped import config_file
    from cl_mlm.tracking.credentials import public_address, without_credentials
    from cl_mlm.tracking.mlflow_sender import tracking_uri
    from cl_mlm.tracking.slugs import slug

    lines = [f"cl-mlm {version('cl-mlm')}: {config_file(config)}"]
    values = read_layer(config)
    arms = arm_layers(values)
    values.pop(ARMS, None)
    chosen = list(dict.fromkeys(variant.arm for variant in variants if variant.arm is not None))
    try:
        if len(chosen) == 1:
            values = merge(values, arms[chosen[0]])
        for text in [*overrides, *(variants[0].overrides if len(variants) == 1 else ())]:
            values = merge(values, read_override(text))
        address = tracking_uri(_text(_inner(values, "tracking", "uri", None)))
    except ClMlmError:
        return lines
    runs = "1 run" if len(variants) == 1 else f"{len(variants)} runs"
    arm = [f"arms {', '.join(chosen)}" if len(chosen) > 1 else f"arm {chosen[0]}"] if chosen else []
    seeds = dict.fromkeys(text.removeprefix("seed=") for variant in variants for text in variant.overrides)
    seed = f"seeds {', '.join(seeds)}" if len(seeds) > 1 else f"seed {next(iter(seeds), values.get('seed', 0))}"
    what = {"stream": _inner(values, "stream", "name", "?"), "model": _inner(values, "model", "name", "tiny")}
    folder = Path(str(values.get("output", "runs"))) / slug(str(values.get("experiment", "experiment")))
    lines += [
        f"  {runs}: {'; '.join([*arm, seed, *(f'{kind} {name}' for kind, name in what.items())])}",
        f"  below {folder}, tracked in {public_address(address)}",
        "  reading settings and data ...",
    ]
    # What a user set may hold a password, and standard error is often kept in files.
    return [without_credentials(line) for line in lines]


def _inner(values: Mapping[str, Any], section: str, key: str, default: Any) -> Any:
    """Returns a key of a section that may be given as a bare name."""
    given = values.get(section)
    if isinstance(given, str):
        return given if key == "name" else default
    return given.get(key, default) if isinstance(given, Mapping) else default


def _text(value: Any) -> str | None:
    """Returns a setting that must be a text.

    Raises:
        ConfigError: it is another thing; the check tells it.
    """
    if value is None or isinstance(value, str):
        return value
    raise ConfigError(f"must be a text, got {value!r}")


def closing_lines(results: Sequence[Result], following: str) -> list[str]:
    """Returns where the report, the model and the UI of a command's runs are, and the command that may come next."""
    from cl_mlm.run_folder import RunFolder
    from cl_mlm.tracking.credentials import without_credentials

    folders = [RunFolder(result.folder) for result in results]
    places = [_last_model(result) for result in results]
    if len(results) == 1:
        lines = [
            f"run: {shell_line(folders[0].path)}",
            f"report: {shell_line(folders[0].figures)}",
            "  beside it: per_class.csv, summary.json",
        ]
        kept = (
            "model: not kept (checkpoint.keep_stages=none)" if places[0] is None else f"model: {shell_line(places[0])}"
        )
    else:
        lines = ["reports: figures/, per_class.csv and summary.json in the folder of each run"]
        found = [str(place.relative_to(folder.path)) for place, folder in zip(places, folders, strict=True) if place]
        kept = f"models: {', '.join(dict.fromkeys(found))} in the folder of each run" if found else "models: not kept"
    lines += [kept, f"UI: {_ui(folders[0].config, results[0])}", f"next: {following}"]
    return [without_credentials(line) for line in lines]


def next_command(config: Path, overrides: Sequence[str], arms: Sequence[str], results: Sequence[Result]) -> str:
    """Returns the command that may come after a `run` with these arguments."""
    from cl_mlm.config.layers import arm_layers, read_layer

    folder = results[0].folder.parent
    chosen = [word for arm in arms for word in ("--arm", arm)]
    same: list[str | Path] = ["cl-mlm", "run", config, *(text for text in overrides if not text.startswith("limit="))]
    if any(result.summary["settings"].get("limit") for result in results):
        return shell_line(*same, *chosen)  # after the smoke run the real one
    seeds = sorted({int(result.summary["seed"]) for result in results})
    if len(results) == 1 and len(_finished(folder)) > 1:
        return shell_line("cl-mlm", "compare", folder)
    # An override of the strategies would make all arms the same.
    if len(results) == 1 and arm_layers(read_layer(config)) and not any(t.startswith("strategies") for t in overrides):
        return shell_line(*same, "--arm", "all")
    if len(seeds) > 1:
        return shell_line("cl-mlm", "compare", folder, "--markdown")
    more = [word for seed in range(seeds[0], seeds[0] + 3) for word in ("--seed", str(seed))]
    return shell_line(*same, *chosen, *more)


def compare_command(result: Result) -> str:
    """Returns the command that compares a run with those beside it."""
    return shell_line("cl-mlm", "compare", result.folder.parent)


def _finished(experiment: Path) -> list[Path]:
    """Returns the summaries of the full runs of an experiment: smoke runs are compared among themselves only."""
    from cl_mlm.results.summary_file import read_summary_file

    found = []
    for path in experiment.glob("*/summary.json"):
        try:
            summary = read_summary_file(path)
        except ClMlmError:  # the comparison names it
            continue
        if not summary["settings"].get("limit"):
            found.append(path)
    return found


def _last_model(result: Result) -> Path | None:
    """Returns the folder of the model after the last stage; None: it was not kept."""
    from cl_mlm.run_folder import RunFolder

    place = RunFolder(result.folder).model(len(result.summary["stream"]["stages"]) - 1)
    return place if place.is_dir() else None


def _ui(config: Path, result: Result) -> str:
    """Returns the command that opens the UI on the store of a run."""
    from cl_mlm.config.layers import read_layer
    from cl_mlm.tracking.mlflow_sender import tracking_uri

    given = _inner(read_layer(config), "tracking", "uri", None)
    words = ["cl-mlm", "ui", "--experiment", str(result.summary["experiment"])]
    is_default = given is None or tracking_uri(given) == tracking_uri(None)
    return shell_line(*words, *([] if is_default else ["--uri", str(given)]))
