"""The commands that concern MLflow: `sync` and `ui`."""

from typing import Annotated

import typer

from cl_mlm.cli.arguments import RunArgument
from cl_mlm.cli.printing import print_lines


def sync(folder: RunArgument) -> None:
    """Sends what an unreachable tracking server has missed."""
    from cl_mlm.tracking.mlflow_delivery import Link
    from cl_mlm.tracking.mlflow_sender import sync as send

    num_lines, link = send(folder), Link.load(folder)
    store = f" to {link.uri}" if link else ""
    print_lines([f"sent {num_lines} journal lines{store}"])


def ui(
    uri: Annotated[
        str | None, typer.Option(help="Tracking store; default: MLFLOW_TRACKING_URI, else ./mlflow.db.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Opens the MLflow UI on the store that runs write to."""
    import subprocess

    from cl_mlm.tracking.mlflow_sender import tracking_uri, ui_command

    address = tracking_uri(uri)
    if address.startswith("http"):
        print_lines([f"the tracking server itself shows its UI: {address}"])
        return
    raise typer.Exit(subprocess.run([*ui_command(address), "--port", str(port)], check=False).returncode)
