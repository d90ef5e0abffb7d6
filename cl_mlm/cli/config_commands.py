"""The commands about configs, which train nothing: `check`, `list` and `init`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cl_mlm.cli.arguments import Arms, ConfigFile, Limit, Overrides, with_limit
from cl_mlm.cli.completion import complete_list, complete_part, complete_shipped
from cl_mlm.cli.printing import print_lines
from cl_mlm.results.terminal_text import terminal_width
from cl_mlm.tracking.shell import shell_line


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    arms: Arms = None,
    limit: Limit = None,
    measure: Annotated[
        int, typer.Option(min=0, metavar="N", help="Times N steps on the real model, and says what the run will take.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Prints the same as JSON; a list where arms are named.")
    ] = False,
) -> None:
    """Validates config and data and says what a run would do: rows, tokens, steps, memory, disk; trains nothing."""
    from cl_mlm.check.look import early_look
    from cl_mlm.cli.listing import describe
    from cl_mlm.config.arms import load_variants, planned
    from cl_mlm.experiment.preparation import prepare

    given = with_limit(overrides, limit)
    configs = load_variants(config, given, planned(config, arms or [], []), every_arm=True)
    runs = (prepare(resolved) for resolved in configs)
    if as_json:
        estimates = [early_look(prepared, measure).to_dict() for prepared in runs]
        print(json.dumps(estimates if arms else estimates[0], indent=1))
        return
    for prepared in runs:
        print_lines(describe(prepared, measure, terminal_width()))


def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="strategies, streams, objectives, configs, or keys.",
            metavar="[WHAT]",
            autocompletion=complete_list,
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Argument(
            help="Only names that hold this; of keys: a section, a stream, a strategy or an objective.",
            metavar="[PART]",
            autocompletion=complete_part,
            show_default=False,
        ),
    ] = "",
) -> None:
    """Lists what a config may name, or every key that it may have; alone, what there is to list."""
    from cl_mlm.cli.listing import listing, overview

    print_lines(overview() if what is None else listing(what, part))


def init(
    name: Annotated[
        str | None,
        typer.Argument(help="A shipped config; without it they are listed.", autocompletion=complete_shipped),
    ] = None,
    target: Annotated[
        Path | None, typer.Argument(help="A new file, or a folder; default: NAME.yaml here.", show_default=False)
    ] = None,
) -> None:
    """Copies a shipped config, as a start for one of your own; never overwrites a file."""
    from cl_mlm.cli.listing import listing
    from cl_mlm.config.shipped import copy_shipped

    if name is None:
        print_lines([*listing("configs"), "", "cl-mlm init NAME copies one of them to NAME.yaml"])
        return
    file = copy_shipped(name, target)
    print_lines([f"written: {file}", f"next: {shell_line('cl-mlm', 'check', file)}"])
