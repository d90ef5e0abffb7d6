"""What is refused of a model's files before anything is loaded: pickles, and code of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import TINY

# What torch and others keep as pickles, which run code when they are read.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_model(config: ModelConfig) -> None:
    """Refuses a local path that is no model folder, or one that could only be loaded by running code of its own.

    Raises:
        ConfigError: the path does not exist, or holds no config.json, own code, or weights only as a pickle.
    """
    path = Path(config.name).expanduser()
    looks_local = path.is_absolute() or config.name.startswith((".", "~")) or config.name.count("/") > 1
    if config.name in TINY or (not looks_local and not path.exists()):
        return
    if not (path / "config.json").is_file():
        state = "has no config.json" if path.exists() else "does not exist"
        known = ", ".join(TINY)
        raise ConfigError(
            f"model.name: must be {known}, a hub id or a folder with a transformers model; {config.name!r} {state}"
        )
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file():
            refuse_own_code(config.name, _read_json(path / name))
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles and not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"model.name: weights must be safetensors, {config.name!r} has only {', '.join(pickles)}; a pickle runs "
            "code when it is read (where you trust it, load it with transformers and save_pretrained it elsewhere)"
        )


def refuse_own_code(name: str, settings: Mapping[str, Any]) -> None:
    """Refuses a config that names code which comes with the model.

    Raises:
        ConfigError: it does.
    """
    if settings.get("auto_map"):
        raise ConfigError(
            f"model.name: must be a model that transformers has itself, {name!r} brings code of its own (auto_map), "
            "which is not run"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"model.name: {path}: cannot be read: {error}") from error
