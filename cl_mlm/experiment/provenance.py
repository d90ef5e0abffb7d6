"""What a result comes from beside its settings: rows, what is asked of them, files of the model, and code.

Every run records it in tags of its journal. A finished run is handed back, and an unfinished one resumed, where it is
what it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.config.components import find
from cl_mlm.config.own_source import VALUE, own_source
from cl_mlm.data.tasks import objectives_of
from cl_mlm.models.stored_files import model_digest
from cl_mlm.storage.versions import versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cl_mlm.config.schema import Config
    from cl_mlm.prompting.columns import Prompting
    from cl_mlm.strategy import Strategy
    from cl_mlm.stream import Column, Stage, Stream

ROWS = "stream/fingerprint"
PROMPTED = "prompting/fingerprint"
MODEL = "model/files"
HELD_OUT = "probes/text"
# Tags of data: what makes another experiment, in the words of messages.
DATA = {
    ROWS: "rows of the stream: fingerprint",
    "stream/stages": "objectives and columns of the stream: digest",
    PROMPTED: "prompted rows: fingerprint",
    MODEL: "files of the model: digest",
    HELD_OUT: "held-out text of probes.kl: digest",
}
PROJECT_SOURCE = "version/source"
OWN_SOURCE = "own_source"
SOURCE = "source of "
OWN = (SOURCE, VALUE)  # begin the lines about own code


def provenance(
    config: Config, stream: Stream, strategies: Sequence[Strategy], prompting: Prompting | None
) -> dict[str, str]:
    """Returns what a result comes from, by the tags that record it."""
    found = {ROWS: stream.fingerprint, "stream/stages": _asked(stream), PROJECT_SOURCE: versions()["source"]}
    if prompting is not None and not prompting.is_own:
        found[PROMPTED] = f"{prompting.stream.fingerprint} {_asked(prompting.stream)}"
    model = model_digest(config.model)
    if model is not None:
        found[MODEL] = model
    if config.probes is not None and config.probes.kl is not None and config.probes.kl.text is not None:
        found[HELD_OUT] = hashlib.sha256(Path(config.probes.kl.text).read_bytes()).hexdigest()[:12]
    prompted = () if prompting is None else [type(column.objective) for column in prompting.columns]
    own = own_source(dict.fromkeys([*components(config, stream, strategies), *prompted]))
    return found | ({OWN_SOURCE: json.dumps(own, sort_keys=True)} if own else {})


def components(config: Config, stream: Stream, strategies: Sequence[Strategy]) -> list[Any]:
    """Returns the classes and functions of which a run is made, the project's own among them."""
    objectives = [type(objective) for objective in objectives_of(stream)[1].values()]
    return [*map(type, strategies), *objectives, *(find("stream", name) for name in _factories(config))]


def _factories(config: Config) -> Iterator[str]:
    """Yields the dotted paths of the functions that build the streams of a config."""
    data = config.prompting.data if config.prompting is not None else None
    probes = config.stream.get("probes", {}).values()
    for section in (config.stream, data, *probes):
        # The section of an object that was handed over has its fingerprint: who has built it does not matter.
        if isinstance(section, dict) and "fingerprint" not in section and "." in str(section.get("name", "")):
            yield section["name"]


def _asked(stream: Stream) -> str:
    """Returns a hash of what is asked of the rows of a stream, which its fingerprint does not cover."""

    def told(owner: Stage | Column) -> list[Any]:
        return [owner.name, owner.task, owner.objective, dict(owner.options), owner.domain, owner.language]

    whole = [stream.partial, stream.measured, stream.base_scenario]
    text = json.dumps([whole, [*map(told, stream.stages)], [*map(told, stream.columns)]], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def other_data(tags: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Returns a line for each tag of `DATA` that is known on both sides and differs, by the tag."""
    return {
        tag: f"{words} {tags[tag]} at the start, {now[tag]} now"
        for tag, words in DATA.items()
        if tag in tags and tag in now and tags[tag] != now[tag]
    }


def other_source(tags: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns a line for each part of the code that differs."""
    lines = []
    then_own, now_own = (json.loads(side.get(OWN_SOURCE, "{}")) for side in (tags, now))
    for name in sorted({*then_own, *now_own}):
        before, after = (side.get(name, "not there") for side in (then_own, now_own))
        if before != after:
            told = name if name.startswith(VALUE) else f"{SOURCE}{name}"
            lines.append(f"{told} {before} then, {after} now")
    before = tags.get(PROJECT_SOURCE, "not recorded")
    if before != now[PROJECT_SOURCE]:
        lines.append(f"source {before} then, {now[PROJECT_SOURCE]} now")
    return lines
