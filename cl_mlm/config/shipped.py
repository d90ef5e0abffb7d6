"""Finds config files: a path, or the bare name of a config that is shipped with the project.

`cl_mlm/configs` is a link to `configs/` in a clone; in a wheel it is a folder with the same files.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from cl_mlm.errors import ConfigError, nearest

SHIPPED_FOLDER = Path(__file__).resolve().parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Returns the shipped configs by their names, sorted."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.resolve().glob("*.yaml"))}


def config_file(source: str | Path) -> Path:
    """Returns the file that `source` means: itself, `<source>.yaml`, or the shipped config of that name.

    A file of the user's comes before a shipped config of the same name: it may be a copy that was changed.

    Raises:
        ConfigError: there is none; with the nearest one that there is.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.name and (with_suffix := path.with_name(f"{path.name}.yaml")).is_file():
        return with_suffix
    shipped = shipped_configs()
    if str(path) in shipped:
        return shown_path(shipped[str(path)])
    raise ConfigError(f"config: {_what_is_there(path)}; shipped configs: {', '.join(shipped)}")


def shown_path(path: Path) -> Path:
    """Returns a path as it is typed from the working folder, where the file lies below it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def copy_shipped(name: str, target: Path | None = None) -> Path:
    """Copies a shipped config, its head's commands on the copy; returns the path of the copy.

    Args:
        name: of the config, as `list configs` shows it; `configs/<name>.yaml` will do, too.
        target: a new file, or a folder, which is made; None: `<name>.yaml` in the working folder.

    Raises:
        ConfigError: there is no such config, or the target exists or cannot be written.
    """
    shipped = shipped_configs()
    stem = Path(name).stem if name.startswith("configs/") else name.removesuffix(".yaml")
    if stem not in shipped:
        raise ConfigError(f"init: no config is called {name!r}{nearest(stem, shipped)}; allowed: {', '.join(shipped)}")
    file = Path(f"{stem}.yaml") if target is None else target
    if target is not None and (target.is_dir() or target.suffix not in (".yaml", ".yml")):
        file = target / f"{stem}.yaml"
    own = shlex.quote(str(file))
    original = shipped[stem].read_text(encoding="utf-8")
    text = re.sub(rf"(?<= )(?:configs/)?{re.escape(stem)}\.yaml\b", lambda _: own, original)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as copy:
            copy.write(text)
    except FileExistsError as error:
        raise ConfigError(f"init: must not overwrite a file, got {str(file)!r}, which exists") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()  # else half a file would stand in the way of the next try
        raise ConfigError(f"init: cannot write {str(file)!r}: {error.strerror or error}") from error
    return file


def _what_is_there(path: Path) -> str:
    """Returns that there is no such file, and what was probably meant."""
    if path.is_dir():
        return f"must be a file, got the folder {str(path)!r}"
    shipped = shipped_configs()
    if path.stem in shipped:  # `configs/quickstart.yaml` typed where there is no clone
        return f"no such file: {path} (the shipped one runs anywhere by its bare name: {path.stem})"
    beside = {each.stem: str(each) for each in (*path.parent.glob("*.yaml"), *path.parent.glob("*.yml"))}
    meant = get_close_matches(path.stem, [*beside, *shipped], n=1)
    hint = f" (did you mean {beside.get(meant[0], meant[0])!r}?)" if meant else ""
    return f"no such file: {path}{hint}"
