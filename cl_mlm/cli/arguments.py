"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from cl_mlm.cli.completion import complete_arm, complete_config, complete_key

ConfigFile = Annotated[
    Path,
    typer.Argument(
        help="A YAML file, or a shipped config such as quickstart.", metavar="CONFIG", autocompletion=complete_config
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="key.path=value, such as seed=1 or 'strategies=[replay]'.",
        metavar="[KEY=VALUE]...",
        autocompletion=complete_key,
    ),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        help="A variant that the file declares under `arms`; `all` runs each. May be repeated.",
        autocompletion=complete_arm,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="A smoke run: so many rows a split, 2 steps a stage.")]
AllowInexact = Annotated[
    bool,
    typer.Option("--allow-inexact", help="Goes on under other versions or on another machine, too; flags the run."),
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart/<run>.", metavar="RUN")]


def with_limit(overrides: list[str] | None, limit: int | None) -> list[str]:
    """Returns the overrides of a config, `--limit` among them.

    It sets the key `limit` of the config, so that a smoke run has an identity, and a folder, of its own.
    """
    given = list(overrides or [])
    return given if limit is None else [*given, f"limit={limit}"]
