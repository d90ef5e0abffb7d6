"""Prompts at any time: a kept stage of a finished run, or its model as it was before any training."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.run_folder import RunFolder
from cl_mlm.whole_files import write_text_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.config.schema import Config
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.backbone import PlainBackbone
    from cl_mlm.stream import Stream

UNTRAINED, LAST = "untrained", "last"
SECTION = "prompting"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompted:
    """What was measured.

    Attributes:
        path: the JSON file in the run's folder.
        values: its contents: `shots` (a list of scores in 0-1, one a column, for each number of demonstrations),
            `metrics`, `columns`, `num_rows`, `num_labels`, `model`, `notes`, and what was asked.
    """

    path: Path
    values: dict[str, Any]


def prompt_run(
    folder: str | Path,
    *overrides: str,
    stage: int | str = LAST,
    shots: Sequence[int] | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    stream: Stream | None = None,
) -> Prompted:
    """Scores prompts on a model of a run and writes `prompting/<hash>.json` into the run's folder.

    Args:
        folder: a run folder.
        overrides: `key=value` of the `prompting` section, such as `normalise=bytes`.
        stage: the model after this stage, from 0; `last`; or `untrained`: before any training.
        shots: numbers of demonstrations; None: the section's.
        config: a file or mapping with a `prompting` section (or such a section itself), laid over the run's own.
        stream: the run's stream, where it was handed over as an object.

    Raises:
        ConfigError, DataError: every fault of the section or the data.
        RunFolderError: there is no such run, or the stage's model was not kept.
    """
    from cl_mlm.experiment.preparation import prepare, with_objects

    folder = Path(folder)
    found = _config(folder, overrides, shots, config, needs_stream=stream is None)
    prepared = prepare(with_objects(found, stream, None), stream)
    assert prepared.prompting is not None
    index = _stage_index(stage, len(prepared.stream))
    backbone = _load(folder, prepared, index)
    values = _score(prepared, backbone, index)
    values["notes"] += _since_the_run(folder, prepared, index)
    path = RunFolder(folder).prompting / f"{_digest(values)}.json"
    write_text_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    return Prompted(path, values)


def _since_the_run(folder: Path, prepared: Prepared, index: int) -> list[str]:
    """Returns and logs a line for the rows, and the files of an untrained model, that are not those of the run."""
    from cl_mlm.experiment.continuation import find_changes
    from cl_mlm.experiment.provenance import MODEL, PROMPTED

    # Other prompted rows may be what is asked for; a kept model does not read the files of the first one.
    apart = (PROMPTED,) if index < 0 else (PROMPTED, MODEL)
    lines = [line for tag, line in find_changes(folder, prepared).data.items() if tag not in apart]
    notes = [f"not what the run was made of: {line}" for line in lines]
    for note in notes:
        log.warning("%s: %s", folder, note)
    return notes


def _config(
    folder: Path,
    overrides: Sequence[str],
    shots: Sequence[int] | None,
    config: str | Path | Mapping[str, Any] | None,
    *,
    needs_stream: bool,
) -> Config:
    from cl_mlm.config.layers import read_layer
    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.kept_config import kept_config

    # Strategies play no part in a prompt, and their code may be out of reach; the summary names what matters.
    is_finished = RunFolder(folder).summary.is_file()
    kept_config(folder, without_strategies=is_finished, needs_stream=needs_stream)
    path = RunFolder(folder).config
    layers: list[str | Mapping[str, Any]] = []
    if config is not None:
        given = read_layer(config)
        layers.append({SECTION: given.get(SECTION, given)})
    layers += [text if text.startswith(f"{SECTION}.") else f"{SECTION}.{text}" for text in overrides]
    if shots:
        layers.append({SECTION: {"shots": list(shots)}})
    if is_finished:
        layers.append({"strategies": []})
    found = load_config(path, layers, needs_stream=needs_stream)
    if found.prompting is None:
        raise ConfigError(f"prompting: {path} has no such section; --config FILE or template=... gives one")
    return found


def _swapping(folder: Path, prepared: Prepared) -> list[str]:
    """Returns the strategies of the run that have weights of their own for evaluation."""
    from cl_mlm.experiment.composition import swapping_strategies
    from cl_mlm.experiment.summary import SWAPPED
    from cl_mlm.storage.run_lookup import read_summary

    if RunFolder(folder).summary.is_file():
        return list(read_summary(folder).get(SWAPPED, []))
    return swapping_strategies(prepared.strategies)


def _stage_index(stage: int | str, num_stages: int) -> int:
    """Returns the index of a stage; -1: the untrained model."""
    text = str(stage)
    if text == UNTRAINED:
        return -1
    if text == LAST:
        return num_stages - 1
    if text.isdecimal() and int(text) < num_stages:
        return int(text)
    raise ConfigError(f"--stage: must be {UNTRAINED}, {LAST}, or a stage from 0 to {num_stages - 1}, got {stage!r}")


def _load(folder: Path, prepared: Prepared, index: int) -> PlainBackbone:
    from cl_mlm.experiment.summary import check_scored
    from cl_mlm.models.loading import load_backbone
    from cl_mlm.storage.state_files import damage

    config, model = prepared.config, prepared.config.model
    if index >= 0:
        kept = RunFolder(folder).model(index)
        if not kept.is_dir():
            raise RunFolderError(f"{kept}: not kept; run with checkpoint.keep_stages=all")
        fault = damage(RunFolder(folder).stage(index))
        if fault:
            raise RunFolderError(f"{fault}; its model is not asked")
        check_scored(RunFolder(folder).stage(index), _swapping(folder, prepared))
        model = replace(model, name=str(kept), revision=None, dropout=None)
    labels = prepared.stream.stages[0].labels
    return load_backbone(model, labels, config.seed, config.training.row_length, prepared.objective)


def _score(prepared: Prepared, backbone: PlainBackbone, index: int) -> dict[str, Any]:
    """Returns what the file holds."""
    from cl_mlm.prompting.reader import Reader
    from cl_mlm.prompting.scoring import score_columns
    from cl_mlm.prompting.summary import prompting_summary
    from cl_mlm.tokens.chat import Chat
    from cl_mlm.training.hardware import make_accelerator

    config, prompting = prepared.config, prepared.prompting
    assert prompting is not None
    accelerator: Any = make_accelerator(config)
    model: Any = backbone.model
    model.to(config.training.device)
    chat = Chat(backbone.tokenizer, prompting.config.chat_template) if prompting.config.chat else None
    prompting = replace(prompting, chat=chat)
    reader = Reader(
        model,
        backbone.tokenizer,
        backbone.kind,
        accelerator.autocast,
        config.evaluation.batch_size,
        prompting.config.max_length,
        chat,
    )
    found = {str(shots): score_columns(reader, prompting, shots, index) for shots in prompting.config.shots}
    first = next(iter(found.values()))
    names = [column.name for column in prompting.columns]
    values = prompting_summary(prompting, {k: [one.metrics["score"] for one in row] for k, row in found.items()})
    assert values is not None
    return {
        "model": "the untrained model" if index < 0 else f"after stage {prepared.stream.stages[index].name}",
        "stage": index,
        **values,
        "metrics": {k: [one.metrics for one in row] for k, row in found.items()},
        "num_rows": [one.num_rows for one in first],
        "num_labels": [one.num_labels for one in first],
        "notes": [
            f"{name}: {one.num_cut} of {one.num_rows} {k}-shot prompts lost their beginning"
            for k, row in found.items()
            for name, one in zip(names, row, strict=True)
            if one.num_cut
        ],
    }


def _digest(values: Mapping[str, Any]) -> str:
    """Returns a name for what was asked of which model: the same question overwrites its answer."""
    answers = ("shots", "metrics", "notes")
    asked = {key: value for key, value in values.items() if key not in answers} | {"shots": list(values["shots"])}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]
