"""What a result may depend on beside its config: versions of packages, and the source of this project."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import platform
import subprocess
from functools import cache
from pathlib import Path

from cl_mlm.own_code import SOURCE_PACKAGES

VERSIONED_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "avalanche-lib",
    "mlflow",
    "numpy",
    "omegaconf",
)


def versions() -> dict[str, str]:
    """Returns what a result may depend on: versions, a digest of the source, the commit where it is a checkout."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES}
    return {
        "python": platform.python_version(),
        "cl-mlm": importlib.metadata.version("cl-mlm"),
        **found,
        "source": source(),
        "commit": commit(),
    }


@cache
def source() -> str:
    """Returns a SHA-256 (12 digits) over every Python file of the project's packages as they are when first asked for.

    The commit says less: it does not see what is changed and not committed, and an installed copy has none.
    """
    root = _root()
    digest = hashlib.sha256()
    for path in sorted(path for package in SOURCE_PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


@cache
def commit() -> str:
    """Returns the commit of the checkout that this code lies in, `+` behind it where files differ; else `unknown`.

    As it is when first asked for: the code that runs does not change with the checkout.
    """
    folder = _root()
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _root() -> Path:
    """Returns the folder that holds the project's packages, wherever in them this module stands."""
    return Path(str(importlib.resources.files("cl_mlm"))).parent
