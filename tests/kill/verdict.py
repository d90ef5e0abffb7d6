"""Compares the folder of a run that was killed with that of one that was not, to the bit."""

import json

# Facts about clock and machine, which no second run can have alike, and the digests of files that hold them.
UNEQUAL = (
    "train_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "mtime_ns",
    "record.json",
    "journal.json",
    "journal.jsonl",
    "manifest.json",
    "files.json",
    "summary.json",
)
CLOCK_KEYS = ("time/", "cost/")
# What is said of the journal, or copied from it: every line has a time.
OWN = ("journal.jsonl", "journal.json", "mlflow.json")


def compare(whole, killed):
    """Returns in words what differs between two run folders: each file, and what the journals say."""
    first_names, second_names = _files(whole), _files(killed)
    faults = [f"{name}: in one of both folders only" for name in sorted(first_names ^ second_names)]
    for name in sorted(first_names & second_names):
        first, second = ((folder / name).read_bytes() for folder in (whole, killed))
        if name.rpartition("/")[2] in OWN or first == second:
            continue
        if not name.endswith(".json"):
            faults.append(f"{name}: other bytes")
            continue
        faults += [f"{name}: {fault}" for fault in _differing(json.loads(first), json.loads(second))]
    return faults + _compare_journals(whole / "journal.jsonl", killed / "journal.jsonl")


def _files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _differing(first, second, path=""):
    """Yields the paths at which two JSON values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            if key.rpartition("/")[2] not in UNEQUAL:
                yield from _differing(first.get(key), second.get(key), f"{path}/{key}")
    elif first != second:
        yield f"{path} is {second!r}, uninterrupted {first!r}"


def _compare_journals(whole, killed):
    first, second = _read(whole), _read(killed)
    faults = [f"{key} at {place}: written {n} times" for (place, key), n in second["times"].items() if n > 1]
    for kind in ("points", "params", "tags", "artifacts", "states"):
        faults += [f"journal {kind} {fault}" for fault in _differing(first[kind], second[kind])]
    return faults


def _read(journal):
    """Returns what a journal says: of points, params and tags the values, of artifacts the paths, the last states."""
    said = {"points": {}, "params": {}, "tags": {}, "artifacts": {}, "states": {}, "times": {}}
    for text in journal.read_text().splitlines():
        line = json.loads(text)
        kind, stage = line["kind"], str(line.get("stage"))
        if kind == "metrics":
            place = f"stage {stage} step {line['step']}"
            values = line["values"] | dict.fromkeys(line.get("not_finite", ()))
            for key, value in values.items():
                said["points"][f"{place} {key}"] = None if key.startswith(CLOCK_KEYS) else repr(value)
                said["times"][place, key] = said["times"].get((place, key), 0) + 1
        elif kind in ("params", "tags"):
            said[kind] |= {f"stage {stage} {key}": value for key, value in line["values"].items()}
        elif kind == "artifact":
            said["artifacts"][line["path"]] = stage
        elif kind == "status":
            said["states"][stage] = line["value"]
    return said
