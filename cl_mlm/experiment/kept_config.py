"""The config of a run folder: refused where it was edited after the run had started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.experiment.continuation import WAYS_BACK, edited_settings, listed
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.checkpoint import journal_faults
from cl_mlm.storage.run_lookup import in_short
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.config.schema import Config

STRATEGIES = "strategies"
WRITTEN_AGAIN = "`cl-mlm run` with the config that the run was started with writes config.yaml again"


def kept_config(
    folder: Path, *, is_place_free: bool = False, without_strategies: bool = False, needs_stream: bool = True
) -> Config:
    """Returns the config of the run in `folder`.

    Args:
        folder: the run folder.
        is_place_free: settings that say where a run is computed may have been edited.
        without_strategies: leaves the strategies out, whose code may be out of reach.
        needs_stream: see `load_config`.

    Raises:
        ConfigError: the file has faults.
        RunFolderError: there is none, or it is not the one that the run was started with; each edited key is named. Or
            the journal, which tells that, is damaged.
    """
    path = RunFolder(folder).config
    if not path.is_file():
        way_out = f"\n{WRITTEN_AGAIN}" if RunFolder(folder).journal.is_file() else ""
        raise RunFolderError(f"{folder}: holds no run (no config.yaml){way_out}")
    try:
        config = load_config(path, [{STRATEGIES: []}] if without_strategies else [], needs_stream=needs_stream)
    except ConfigError as error:
        *first, last = (text if str(path) in text else f"{path}: {text}" for text in error.problems)
        raise ConfigError([*first, f"{last}\n{WRITTEN_AGAIN}"]) from error
    changes = edited_settings(folder, config)
    lines = changes.settings + ([] if is_place_free else changes.place)
    if without_strategies:
        lines = [line for line in lines if not line.startswith(STRATEGIES)]
    faults = journal_faults(RunFolder(folder)) if lines and RunFolder(folder).journal.is_file() else []
    if faults:  # what told the settings is of another run
        raise RunFolderError(in_short(faults) + WAYS_BACK)
    if lines:
        raise RunFolderError(
            listed(f"{path}: was edited after the run had started, so it is not the config of this run:", lines)
            + f"\nset it back; or `{shell_line('cl-mlm', 'run', path)}` makes a run of its own with what it says now"
        )
    return config
