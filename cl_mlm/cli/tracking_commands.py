"""The commands that concern MLflow: `sync` and `ui`."""

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from cl_mlm.cli.arguments import RunArgument
from cl_mlm.cli.printing import print_lines


def sync(folder: RunArgument) -> None:
    """Sends what an unreachable tracking server has missed."""
    from cl_mlm.tracking.credentials import public_address
    from cl_mlm.tracking.mlflow_sender import store_of
    from cl_mlm.tracking.mlflow_sender import sync as send

    store = store_of(folder)
    num_lines = send(folder, store)
    print_lines([f"sent {num_lines} journal lines to {public_address(store)}"])


def ui(
    uri: Annotated[
        str | None, typer.Option(help="Tracking store; default: MLFLOW_TRACKING_URI, else ./mlflow.db.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    experiment: Annotated[
        str | None, typer.Option(help="Experiment that is shown; default: the one with the newest run.")
    ] = None,
    browser: Annotated[
        bool | None, typer.Option("--browser/--no-browser", help="Opens the page; default: where there is a browser.")
    ] = None,
) -> None:
    """Serves the MLflow UI on the store that runs write to, and opens the page of training runs."""
    from cl_mlm.tracking import mlflow_ui
    from cl_mlm.tracking.mlflow_sender import calm_mlflow, tracking_uri
    from cl_mlm.tracking.mlflow_store import is_server

    address = tracking_uri(uri)
    mlflow_ui.refuse_missing(address)
    try:
        listener = None if is_server(address) else mlflow_ui.listen(port)
    except mlflow_ui.PortError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    calm_mlflow()
    with listener or nullcontext():
        experiment_id, name = mlflow_ui.experiment_to_show(address, experiment)
        page = mlflow_ui.runs_page(mlflow_ui.address_of(address, port), experiment_id)
        print(f"runs and charts of experiment {name}:\n{page}", flush=True)
        is_opened = mlflow_ui.can_open_browser() if browser is None else browser
        if listener is not None:
            print("Ctrl-C ends the server", flush=True)
            mlflow_ui.serve(address, listener, page if is_opened else None)
        elif is_opened:
            mlflow_ui.open_browser(page)
