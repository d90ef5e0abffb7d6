"""The commands that say what a config means and may name, and train nothing: `check` and `list`."""

import json
from typing import Annotated

import typer

from cl_mlm.cli.arguments import Arms, ConfigFile, Limit, Overrides, with_limit
from cl_mlm.cli.printing import print_lines


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
    from cl_mlm.config.arms import planned
    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare

    given = with_limit(overrides, limit)
    runs = (
        prepare(load_config(config, [*given, *variant.overrides], variant.arm))
        for variant in planned(config, arms or [], [])
    )
    if as_json:
        estimates = [early_look(prepared, measure).to_dict() for prepared in runs]
        print_lines([json.dumps(estimates if arms else estimates[0], indent=1)])
        return
    for prepared in runs:
        print_lines(describe(prepared, measure))


def list_(
    what: Annotated[str, typer.Argument(help="strategies, streams, objectives, or configs.", metavar="WHAT")],
) -> None:
    """Lists what a config may name, with a line on each."""
    from cl_mlm.cli.listing import listing

    print_lines(listing(what))
