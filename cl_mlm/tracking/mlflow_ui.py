"""Serves the MLflow UI on a database, in this process, and tells the address of the page that shows training runs.

MLflow's own command starts the server as a child, which outlives it after some signals. Here the process is the server.
MLflow opens a page for traces of language models first, on which no training run is shown; so the whole address of the
page with runs and charts is told.

Relied on beyond MLflow's documented API, and tested with MLflow 3.17.2 and uvicorn 0.54.0: the application
`mlflow.server.fastapi_app:app`, the variables by which MLflow's command configures it (`mlflow.server.constants`), and
the addresses of its pages.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
import webbrowser
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cl_mlm.errors import ClMlmError, ConfigError, nearest
from cl_mlm.tracking.credentials import public_address
from cl_mlm.tracking.mlflow_store import is_server, open_store, quiet, sqlite_path, tracking_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import uvicorn
    from mlflow import MlflowClient

HOST: Final = "127.0.0.1"
PORTS_TRIED: Final = 100
START_SECONDS: Final = 60.0
MOST_NAMED: Final = 10
TABLES: Final = "SELECT name FROM sqlite_master WHERE name IN ('experiments', 'runs')"
HOW_RUNS_GET_THERE: Final = (
    "`cl-mlm run` tracks runs in mlflow.db of the folder in which it is started, or where MLFLOW_TRACKING_URI or "
    "tracking.uri say; --uri sqlite:///FOLDER/mlflow.db shows another store"
)


class PortError(ClMlmError):
    """The server cannot have the port."""


def refuse_missing(uri: str) -> None:
    """Refuses a SQLite store that is not there; MLflow would make an empty one.

    Raises:
        ConfigError: there is no file, or it is no MLflow store.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, so there are no runs to show; {HOW_RUNS_GET_THERE}")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables = connection.execute(TABLES).fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: must be an MLflow store, got a file that SQLite cannot read: {error}") from error
    if len(tables) < 2:
        raise ConfigError(f"{path}: must be an MLflow store, got a file without its tables; {HOW_RUNS_GET_THERE}")


def listen(port: int) -> socket.socket:
    """Returns a socket that listens at a port of this machine.

    Raises:
        PortError: the port is taken, with a free one; or this user may not have it.
    """
    try:
        return _bound(port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortError(f"port {port} is taken; this one is free: cl-mlm ui --port {_free_port(port)}") from error
        raise PortError(f"port {port}: {error.strerror}; try cl-mlm ui --port {_free_port(5000)}") from error


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()  # from now on nobody else can have the port
    except OSError:
        listener.close()
        raise
    return listener


def _free_port(after: int) -> int:
    for port in (*range(after + 1, min(after + PORTS_TRIED, 65536)), 0):
        try:
            with _bound(port) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue
    return 0


def experiment_to_show(uri: str, name: str | None) -> tuple[str, str]:
    """Returns id and name of the experiment called `name`; without a name, of the one with the newest run.

    Raises:
        ConfigError: the store holds no run, or no experiment of that name.
        TrackingError: the store cannot be read.
    """
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        with quiet():
            try:
                return _experiment_to_show(open_store(uri), uri, name)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                # Not chained: MLflow's messages hold the whole address, with its credentials.
                raise tracking_error(uri, error) from None
    except ImportError as error:  # the driver of a database
        raise tracking_error(uri, error) from None


def _experiment_to_show(client: MlflowClient, uri: str, name: str | None) -> tuple[str, str]:
    names = {
        experiment.experiment_id: experiment.name
        for experiment in client.search_experiments(order_by=["last_update_time DESC"])
    }
    if name is not None:
        known = client.get_experiment_by_name(name)
        if known is None or known.lifecycle_stage == "deleted":
            shown = ", ".join([*names.values()][:MOST_NAMED])
            near = nearest(name, names.values())
            raise ConfigError(f"--experiment: the store has no experiment {name!r}{near}; it has {shown}")
        return str(known.experiment_id), name
    newest = client.search_runs([*names], order_by=["attributes.start_time DESC"], max_results=1) if names else []
    if not newest:
        raise ConfigError(f"{public_address(uri)}: holds no runs; {HOW_RUNS_GET_THERE}")
    found = str(newest[0].info.experiment_id)
    return found, names[found]


def runs_page(server: str, experiment_id: str) -> str:
    """Returns the address of the page that shows the training runs of an experiment and their charts."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def serve(uri: str, listener: socket.socket, page: str | None) -> None:
    """Serves the UI on a database until a signal ends this process.

    Args:
        uri: of the database.
        listener: where the server listens; see `listen`.
        page: opened in the browser as soon as the server answers; None: nothing is opened.
    """
    path = sqlite_path(uri)
    _configure(uri, (path or Path("mlflow.db")).absolute().parent / "mlartifacts")
    import uvicorn

    # MLflow's own business: its application is built on a part that its makers have given up.
    warnings.filterwarnings("ignore", module=r"mlflow\.")
    # Warnings only: uvicorn would tell the bare address, whose page shows no training run.
    config = uvicorn.Config("mlflow.server.fastapi_app:app", log_level="warning", access_log=False)
    if page is not None:
        host, port = listener.getsockname()
        threading.Thread(target=_open_when_up, args=(f"http://{host}:{port}", page), daemon=True).start()
    server = uvicorn.Server(config)
    with _hang_up_ends(server):
        server.run(sockets=[listener])


@contextmanager
def _hang_up_ends(server: uvicorn.Server) -> Iterator[None]:
    """Makes SIGHUP end a server as SIGTERM does, which uvicorn hears itself: between two answers, not within one.

    The handler that was there hears it afterwards.
    """
    before, heard = signal.getsignal(signal.SIGHUP), False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = server.should_exit = True

    if before is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        if heard:
            signal.raise_signal(signal.SIGHUP)


def _configure(uri: str, uploads: Path) -> None:
    """Sets the variables that MLflow's server reads when it is imported, as MLflow's own command does."""
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(uploads),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        # Jobs evaluate traces of language models, in processes of their own.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def can_open_browser() -> bool:
    """Returns whether somebody looks at a terminal of a machine that has a browser with windows."""
    # A browser in text, which Python would choose without a display, would take the terminal.
    has_windows = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    return sys.stdout.isatty() and has_windows


def open_browser(page: str) -> None:
    """Opens a page in the browser, if there is one; the address has been told anyway."""
    try:
        webbrowser.open(page)
    except (webbrowser.Error, OSError):
        return


def _open_when_up(server: str, page: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=START_SECONDS):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    open_browser(page)


def address_of(uri: str, port: int) -> str:
    """Returns the address of the server: the store's own if it is one, else this machine's."""
    return public_address(uri) if is_server(uri) else f"http://{HOST}:{port}"
