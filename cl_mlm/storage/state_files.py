"""Nested states on disk: tensors as safetensors, the rest as JSON, never pickled.

A folder appears whole or not at all: it is written beside its place, checksummed, flushed to disk and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cl_mlm.config.undecodable import named_in_text
from cl_mlm.disk import writing
from cl_mlm.own_code import in_short
from cl_mlm.run_folder import MANIFEST
from cl_mlm.whole_files import digest_of, flush

if TYPE_CHECKING:
    from pathlib import Path


TENSOR, TUPLE = "$tensor", "$tuple"  # keys that stand for what JSON does not know
MARKS = {TENSOR, TUPLE}
# What both torch and safetensors know; a longdouble or a complex128 is none of it.
ARRAYS = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64"),
)
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
TENSORS = {getattr(torch, name) for name in (*ARRAYS, "bfloat16", *FLOAT8)}
MOST_BITS = 10_000  # Python writes no whole number of more than 4300 digits
MOST_LEVELS = 100  # Python's reader of JSON gives up at some hundreds


def write_entry(final: Path, state: Mapping[str, Any]) -> None:
    """Writes a state into a folder of its own, which appears whole or not at all."""
    write_folder_whole(final, lambda path: write_state(path, "state", state), lambda: state_bytes(state))


def read_entry(folder: Path) -> dict[str, Any]:
    """Returns the state that `write_entry` wrote; arrays come back as tensors."""
    return read_state(folder, "state")


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Writes a state into a folder: `<name>.safetensors` and `<name>.json`."""
    tensors: dict[str, torch.Tensor] = {}
    plain = split_state(dict(state), "", tensors)
    with named_in_text(folder) as named:
        save_file(tensors, named / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(plain))


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Returns the state that `write_state` wrote; arrays come back as tensors."""
    plain = json.loads((folder / f"{name}.json").read_text())
    with named_in_text(folder) as named:
        return dict(join_state(plain, load_file(named / f"{name}.safetensors")))


def write_folder_whole(final: Path, fill: Callable[[Path], None], needs: Callable[[], float] | None = None) -> Path:
    """Fills a folder beside `final`, adds checksums, flushes it to disk and renames it into place.

    Args:
        final: the folder.
        fill: writes its files.
        needs: returns their bytes; None: not known.

    Raises:
        StorageError: the disk does not take it; nothing is left of it.
    """
    folder, temporary = final.parent, final.with_name(f".{final.name}.tmp")
    with writing(final, needs=needs):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
            with ThreadPoolExecutor(1) as disk:  # the disk takes the files while they are hashed
                flushed = disk.map(flush, files)
                manifest = {str(path.relative_to(temporary)): digest_of(path) for path in files}
                deque(flushed, maxlen=0)  # raises what `flush` has raised
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
            flush(temporary / MANIFEST)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        except BaseException:  # a full disk must not stay full of what cannot be used
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush(folder)
    return final


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        return f"{folder / MANIFEST}: cannot be read: {error}"
    if not isinstance(manifest, dict):
        return f"{folder / MANIFEST}: must map names to checksums, got {type(manifest).__name__}"
    # What is opened is found here, not taken from the manifest, which could name any file; a checkpoint has no links.
    own = {
        str(p.relative_to(folder)): p
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink() and not p.name.startswith(".")
    }
    strangers = sorted(own.keys() - manifest.keys() - {MANIFEST})
    if strangers:
        return f"{folder / strangers[0]}: does not belong to the checkpoint"
    for name, digest in manifest.items():
        if name not in own:
            return f"{folder / name}: is missing"
        if digest_of(own[name]) != digest:
            return f"{own[name]}: is damaged (its checksum differs)"
    return None


def split_state(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Returns `value` with every tensor and array moved to `tensors` under its path and replaced by a reference.

    A tuple comes back as a tuple; an array comes back as a tensor.

    Raises:
        TypeError: a value would not come back as it is; see `plain_fault`.
    """
    if fault := _own_fault(value, path):
        raise TypeError(fault)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())  # torch takes no read-only arrays and no negative strides
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {key: split_state(item, f"{path}/{_escaped(key)}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [split_state(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return {TUPLE: items} if isinstance(value, tuple) else items
    return value


def plain_fault(value: Any, path: str = "") -> str | None:
    """Returns why a state would not come back from disk as it is, naming the first place; None: it would."""
    fault = _own_fault(value, path)
    if fault is None and isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next(filter(None, (plain_fault(item, f"{path}/{_escaped(key)}") for key, item in items)), None)
    return fault


def _own_fault(value: Any, path: str) -> str | None:
    """Returns the fault of a value itself, without those of what it holds."""
    rule, is_kept = "must be tensors and plain values only", False
    if path.count("/") > MOST_LEVELS:
        return f"state{path[:60]}...: must be nested at most {MOST_LEVELS} levels deep"
    if isinstance(value, np.ndarray):
        rule = f"must be numbers or bool in this machine's order of bytes ({', '.join(ARRAYS)})"
        is_kept = value.dtype.isnative and value.dtype.name in ARRAYS
    elif isinstance(value, torch.Tensor):
        is_kept = value.layout == torch.strided and not value.is_meta and value.dtype in TENSORS
        rule = "must be a dense tensor with values, of a type that safetensors writes"
    elif isinstance(value, Mapping):
        odd = [key for key in value if not _is_key(key) or (key in MARKS and len(value) == 1)]
        rule, is_kept = "keys must be texts, which are read back as they are", not odd
        value = odd[0] if odd else value
    elif isinstance(value, list | tuple):
        is_kept = not hasattr(value, "_fields")
    elif value is None or isinstance(value, str | int | float):
        is_kept = not isinstance(value, Enum) and not (isinstance(value, int) and value.bit_length() > MOST_BITS)
    return None if is_kept else f"state{path}: {rule}, got {in_short(value)}"


def _is_key(key: object) -> bool:
    """Says whether safetensors can write a key, which it does as UTF-8."""
    return isinstance(key, str) and not any("\ud800" <= character <= "\udfff" for character in key)


def _escaped(key: object) -> str:
    """Returns a key as one part of a path, so that `a/b` does not meet `b` below `a`; RFC 6901."""
    return str(key).replace("~", "~0").replace("/", "~1")


def join_state(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns what `split_state` took apart; arrays come back as tensors."""
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        if set(value) == {TUPLE}:
            return tuple(join_state(item, tensors) for item in value[TUPLE])
        return {key: join_state(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join_state(item, tensors) for item in value]
    return value


def state_bytes(value: Any) -> int:
    """Returns the bytes of all tensors in a state."""
    tensors: dict[str, torch.Tensor] = {}
    split_state(value, "", tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
