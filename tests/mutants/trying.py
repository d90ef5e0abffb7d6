"""Runs the tests that cover a planted fault, in a forked process that has imported the libraries already."""

import importlib
import os
import re
import signal
import sys
import time
from pathlib import Path

LIBRARIES = ("pytest", "torch", "transformers", "datasets", "accelerate", "mlflow", "omegaconf", "pyarrow.parquet")
SLOWER = 5  # times its usual time that a test may take, for a planted fault may loop for ever
LEAST_SECONDS = 60
FIRST_SECONDS = 30.0  # of tests that a fault meets first; nearly all fall there
_WORKER = {}
NOT_FOUND = re.compile(r"^ERROR: not found: (.*)$", re.MULTILINE)
PASSED, USAGE, NO_TESTS, NOT_RUN = 0, 4, 5, 70


def begin(copies, covering, budget):
    """Begins a worker: takes one of the copies, and imports what the project does not own, so that a fork need not.

    Args:
        copies: a queue of copies of the repository.
        covering: which tests run which line, and how long each takes.
        budget: seconds of tests that a fault is tried on.
    """
    _WORKER.update(covering, copy=copies.get(), budget=budget)
    # Who starts this in the background may have had them ignored; tests of signals would then fail without a fault.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name in LIBRARIES:
        importlib.import_module(name)


def attempt(fault):
    """Says whether a test fails with the fault in the worker's copy of the repository."""
    copy, seconds = _WORKER["copy"], _WORKER["seconds"]
    tests = _WORKER["lines"].get(fault.path, {}).get(str(fault.line), [])
    if not tests:
        return False
    file, log = copy / fault.path, copy.parent / f"{copy.name}.log"
    source = file.read_bytes()
    file.write_bytes(fault.planted(source))
    try:
        first = order(tests, seconds, fault.path, FIRST_SECONDS)
        rest = [test for test in order(tests, seconds, fault.path, _WORKER["budget"]) if test not in set(first)]
        return is_caught(copy, first, seconds, log) or (bool(rest) and is_caught(copy, rest, seconds, log))
    finally:
        file.write_bytes(source)


def order(tests, seconds, path, limit):
    """Returns the tests that are run for a fault in `path`: of files named alike first, then the fastest.

    Args:
        tests: identifiers; a file stands for all its tests.
        seconds: of each test.
        path: of the fault.
        limit: seconds of tests at most.
    """
    stem = Path(path).stem
    whole = {test for test in tests if "::" not in test}
    every = {test for test in seconds if test in tests or test.partition("::")[0] in whole}
    ordered = sorted(every, key=lambda test: (stem not in test.partition("::")[0], seconds[test], test))
    chosen, total = [], 0.0
    for test in ordered:
        total += seconds[test]
        if chosen and total > limit:
            break
        chosen.append(test)
    return chosen


def is_caught(copy, tests, seconds, log):
    """Says whether a test fails in the copy of the repository, or does not end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = NOT_RUN
        try:
            code = _run(copy, tests, log)
        finally:
            os._exit(code)
    ends = time.monotonic() + LEAST_SECONDS + SLOWER * sum(seconds[test] for test in tests)
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            gone = set(NOT_FOUND.findall(log.read_text())) if code == USAGE else set()
            left = [test for test in tests if not any(found.endswith(test.partition("[")[0]) for found in gone)]
            if len(left) < len(tests):  # the fault changes which tests there are
                return bool(left) and is_caught(copy, left, seconds, log)
            return _verdict(code, log)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run(copy, tests, log):
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(Path.cwd())))]
    import pytest

    # What is imported already cannot be rewritten, nor need it be: the libraries are not what is tested.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    base = copy.parent / f"{copy.name}-tests"
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *quiet, f"--basetemp={base}", *tests]))


def _verdict(code, log):
    """Returns whether tests failed, by the exit code of pytest."""
    if code in (NOT_RUN, USAGE, NO_TESTS):
        raise RuntimeError(f"{log}: the tests could not be run (exit code {code})")
    return code != PASSED
