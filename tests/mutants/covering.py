"""Which tests run which line, and how long each takes: measured by running all of them once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from coverage import CoverageData

HERE = Path(__file__).resolve().parent


def measure(copy, options):
    """Returns `{"lines": {file: {line: [tests]}}, "seconds": {test: seconds}}` of a copy of the repository."""
    data, seconds = copy.parent / "coverage", copy.parent / "seconds.json"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), str(HERE)]),
        "COVERAGE_FILE": str(data),
        "MUTANTS_SECONDS": str(seconds),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "covering", "-n", str(options.jobs), "--dist", "worksteal"]
    command += [*options.tests, "-m", options.selected, "--cov", "--cov-context=test", "--cov-report="]
    done = subprocess.run(command, cwd=copy, env=environment, check=False)
    if done.returncode != 0:
        sys.exit("the tests must pass before faults are planted")
    return {"lines": _lines(copy, data), "seconds": json.loads(seconds.read_text())}


def _lines(copy, data):
    """Returns by file and line the tests that run it; those of a whole file where a shared fixture does."""
    coverage = CoverageData(str(data))
    coverage.read()
    found = {}
    for file in coverage.measured_files():
        path = Path(file)
        if path.is_relative_to(copy):
            lines = coverage.contexts_by_lineno(file)
            found[str(path.relative_to(copy))] = {
                str(line): sorted({_owner(context) for context in contexts if context})
                for line, contexts in lines.items()
            }
    return found


def _owner(context):
    test, _, phase = context.rpartition("|")
    return test if phase == "run" else test.partition("::")[0]


_SECONDS = {}


def pytest_runtest_logreport(report):
    """Adds up setup, call and teardown of each test."""
    _SECONDS[report.nodeid] = _SECONDS.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(session):
    """Writes the seconds of all tests, once: in the process that the others report to."""
    if not hasattr(session.config, "workerinput") and "MUTANTS_SECONDS" in os.environ:
        Path(os.environ["MUTANTS_SECONDS"]).write_text(json.dumps(_SECONDS))
