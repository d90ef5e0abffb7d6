"""Damages to the folder of a run: what a disk, a sync program or a hasty hand does to it, drawn from a seed."""

import csv
import io
import json
import shutil
from dataclasses import dataclass

import yaml

JOURNAL = "journal.jsonl"
EDITABLE = (".json", ".jsonl", ".yaml", ".csv", ".safetensors")


@dataclass(frozen=True)
class Damage:
    """What was done to which file or folder.

    Attributes:
        kind: a key of `KINDS`.
        target: the path below the run's folder.
        detail: what exactly, in words.
    """

    kind: str
    target: str
    detail: str = ""


def draw(random, kind, folder, other):
    """Damages one file or folder of a run; returns what was done, None where the run has nothing of that kind.

    Args:
        random: what is drawn is drawn from here.
        kind: a key of `KINDS`.
        folder: of the run.
        other: the folder of the same run with another seed, which a file may come from.
    """
    is_fit, work = KINDS[kind]
    fit = [path for path in sorted(folder.rglob("*")) if is_fit(path, other / path.relative_to(folder))]
    if not fit:
        return None
    groups = {}  # a model has many files, a journal is one: each sort of file is hit as often
    for path in fit:
        relative = path.relative_to(folder)
        groups.setdefault((relative.parts[0] if relative.parts[1:] else relative.name, path.suffix), []).append(path)
    path = random.choice(groups[random.choice(sorted(groups))])
    target = path.relative_to(folder)
    return Damage(kind, target.as_posix(), work(random, path, other / target) or "")


def _is_file(path, _other):
    return path.is_file()


def _has_bytes(path, _other):
    return path.is_file() and path.stat().st_size > 0


def _is_folder(path, _other):
    return path.is_dir()


def _is_journal(path, _other):
    return path.name == JOURNAL


def _is_editable(path, _other):
    return path.suffix in EDITABLE and path.is_file() and path.stat().st_size > 0


def _is_table(path, _other):
    return path.suffix == ".parquet"


def _differs(path, other):
    return path.is_file() and other.is_file() and path.read_bytes() != other.read_bytes()


def _has_twin(path, other):
    return path.is_dir() and other.is_dir() and path.name[0].isdigit()


def _delete(_random, path, _other):
    path.unlink()


def _delete_folder(_random, path, _other):
    shutil.rmtree(path)


def _cut(random, path, _other):
    data = path.read_bytes()
    size = random.randrange(len(data))
    path.write_bytes(data[:size])
    return f"{size} of {len(data)} bytes left"


def _flip(random, path, _other):
    data = bytearray(path.read_bytes())
    place, bit = random.randrange(len(data)), random.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)}"


def _empty(_random, path, _other):
    path.write_bytes(b"")


def _into_folder(_random, path, _other):
    path.unlink()
    path.mkdir()


def _into_file(_random, path, _other):
    shutil.rmtree(path)
    path.write_bytes(b"")


def _swap(_random, path, other):
    shutil.copyfile(other, path)


def _swap_folder(_random, path, other):
    shutil.rmtree(path)
    shutil.copytree(other, path)


def _edit(random, path, _other):
    match path.suffix:
        case ".jsonl":
            lines = path.read_text().splitlines()
            number = random.randrange(len(lines))
            value = json.loads(lines[number])
            detail = _edit_leaf(random, value)
            lines[number] = json.dumps(value, separators=(",", ":"))
            path.write_text("\n".join(lines) + "\n")
            return f"line {number + 1}: {detail}"
        case ".csv":
            return _edit_cell(random, path)
        case ".safetensors":
            return _edit_tensor(random, path)
        case ".yaml":
            value = yaml.safe_load(path.read_text())
            detail = _edit_leaf(random, value)
            path.write_text(yaml.safe_dump(value, sort_keys=False))
            return detail
    value = json.loads(path.read_text())
    detail = _edit_leaf(random, value)
    path.write_text(json.dumps(value, indent=1) + "\n")
    return detail


def _edit_leaf(random, value):
    """Changes one plain value within nested ones; says where and to what."""
    leaves = list(_leaves(value))
    if not leaves:
        return "nothing to change"
    holder, key, path = random.choice(leaves)
    old = holder[key]
    holder[key] = _other(old)
    return f"{path}: {old!r} -> {holder[key]!r}"


def _leaves(value, path=""):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        where = f"{path}/{key}"
        if isinstance(item, dict | list):
            yield from _leaves(item, where)
        else:
            yield value, key, where


def _other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return 0.5 if value is None else f"{value}x"


def _edit_cell(random, path):
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row, column = random.randrange(1, len(rows)), random.randrange(len(rows[0]))
    old = rows[row][column]
    rows[row][column] = "0.123" if old.replace(".", "").isdigit() else f"{old}x"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return f"row {row}, column {column}: {old!r} -> {rows[row][column]!r}"


def _edit_tensor(random, path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    names = sorted(name for name, tensor in tensors.items() if tensor.numel())
    if not names:
        path.write_bytes(path.read_bytes() + b" ")
        return "no tensors: one byte more"
    name = random.choice(names)
    tensors[name] = tensors[name].logical_not() if tensors[name].dtype.is_floating_point is False else tensors[name] + 1
    save_file(tensors, path)
    return name


def _change_column(random, path, _other):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = random.choice(table.column_names)
    index = table.column_names.index(name)
    values = table.column(name).to_pylist()
    import pyarrow as pa

    turned = pa.array(values[1:] + values[:1]) if len(set(map(str, values))) > 1 else pa.array([None] * len(values))
    pq.write_table(table.set_column(index, name, turned), path)
    return f"column {name}"


def _remove_lines(random, path, _other):
    lines = path.read_text().splitlines(keepends=True)
    first = random.randrange(1, max(2, len(lines) - 1))
    number = random.randint(1, min(10, max(1, len(lines) - 1 - first)))
    path.write_text("".join(lines[:first] + lines[first + number :]))
    return f"lines {first + 1} to {first + number} of {len(lines)}"


def _duplicate_lines(random, path, _other):
    lines = path.read_text().splitlines(keepends=True)
    first = random.randrange(1, len(lines))
    number = random.randint(1, min(10, len(lines) - first))
    path.write_text("".join(lines[: first + number] + lines[first:]))
    return f"lines {first + 1} to {first + number} of {len(lines)}"


def _keep_beginning(random, path, _other):
    lines = path.read_text().splitlines(keepends=True)
    number = random.randrange(1, len(lines))
    path.write_text("".join(lines[:number]))
    return f"{number} of {len(lines)} lines left"


# Which paths can be damaged so, and how.
KINDS = {
    "file deleted": (_is_file, _delete),
    "folder deleted": (_is_folder, _delete_folder),
    "file cut short": (_has_bytes, _cut),
    "bit flipped": (_has_bytes, _flip),
    "file emptied": (_has_bytes, _empty),
    "folder in place of a file": (_is_file, _into_folder),
    "file in place of a folder": (_is_folder, _into_file),
    "file of another seed's run": (_differs, _swap),
    "folder of another seed's run": (_has_twin, _swap_folder),
    "value edited": (_is_editable, _edit),
    "column of predictions changed": (_is_table, _change_column),
    "journal deleted": (_is_journal, _delete),
    "journal's end deleted": (_is_journal, _keep_beginning),
    "lines within the journal deleted": (_is_journal, _remove_lines),
    "lines of the journal doubled": (_is_journal, _duplicate_lines),
}
