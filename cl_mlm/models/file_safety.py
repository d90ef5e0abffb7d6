"""Refuses model files that could run code, pickles and code of the model's own, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import TINY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.config.schema import ModelConfig

# Weights that torch and others keep as pickles; a pickle can run code when it is read.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_model(config: ModelConfig) -> None:
    """Refuses a local folder that is no model, or that only code of its own could load; hub ids are not checked here.

    Raises:
        ConfigError: the path does not exist, has no config.json, names code of its own, or has weights only as pickles.
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
    """Refuses a model whose config names code that comes with the model.

    Raises:
        ConfigError: the config names such code.
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
