"""A command that a signal ends says so in a line, whatever it is doing, and never with a trace."""

import signal
import subprocess
import sys

import pytest

from cl_mlm.cli.early import is_command


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "ended by SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)],
)
@pytest.mark.parametrize("arguments", [("list",), ("check", "quickstart"), ("verify", "."), ("compare", ".")])
def test_a_command_that_trains_nothing_says_that_it_has_ended(cli, monkeypatch, arguments, number, name, code):
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    places = ("cli.listing.overview", "config.arms.planned", "check.verification.verify", "results.comparison.compare")
    for place in places:
        monkeypatch.setattr(f"cl_mlm.{place}", lambda *given, **named: signal.raise_signal(number))
    try:
        said = cli(*arguments)
    finally:
        signal.signal(number, before)
    assert said.code == code
    assert f"{name}: the same command may be given again" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("start", [["-m", "cl_mlm"], ["-c", "import sys; sys.argv[0] = '/bin/cl-mlm'; import cl_mlm"]])
def test_ctrl_c_while_a_command_loads_is_told_in_a_line(start):
    default = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    if start[0] == "-c":
        start = ["-c", f"{default}; {start[1]}; import time; time.sleep(60)"]
    command = [sys.executable, "-X", "importtime", *start, "list"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr:
            if "cl_mlm.cli.early" in line:
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("argv", "started", "expected"),
    [
        (["-m"], ["python", "-X", "dev", "-m", "cl_mlm", "run"], True),
        (["/usr/bin/cl-mlm", "run"], ["python", "/usr/bin/cl-mlm", "run"], True),
        (["-m"], ["python", "-m", "pytest", "-m", "cl_mlm"], False),
        (["mine.py"], ["python", "mine.py", "-m", "cl_mlm"], False),
        (["-c"], ["python", "-c", "import cl_mlm"], False),
        ([], ["python"], False),
    ],
)
def test_ctrl_c_stays_pythons_where_somebody_imports_the_package(argv, started, expected):
    assert is_command(argv, started) == expected
