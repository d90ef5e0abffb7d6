"""The tool that plants faults: what it changes, what it leaves alone, and that it tells caught from not caught."""

import subprocess
import sys
from pathlib import Path

from planting import faults
from trying import order

SOURCE = b'''"""A module."""

LIMIT = 3


def share(part: int = 1, *, whole: "list[int]") -> float:
    """Returns a part."""
    if part < LIMIT and whole:
        raise ValueError(f"must be {part + 1}" + " or less")
    \xc3\xbcber = min(part, len(whole))
    return \xc3\xbcber / 2
'''


def test_each_fault_is_one_small_change_that_is_still_python():
    found = {(fault.old, fault.new) for fault in faults("a.py", SOURCE)}
    assert {
        ("part < LIMIT", "(part <= LIMIT)"),
        ("part < LIMIT and whole", "(part < LIMIT or whole)"),
        ("part < LIMIT and whole", "(part < LIMIT)"),
        ("min(part, len(whole))", "(max(part, len(whole)))"),
        ("über / 2", "(über * 2)"),
        ("über / 2", "(über)"),
        ("2", "(3)"),
        ("return über / 2", "return None"),
    } <= found


def test_a_fault_changes_its_own_place_and_nothing_else():
    for fault in faults("a.py", SOURCE):
        planted = fault.planted(SOURCE)
        compile(planted, "a.py", "exec")
        assert SOURCE[fault.start : fault.end].decode() == fault.old
        changed = [
            i for i, (a, b) in enumerate(zip(SOURCE.splitlines(), planted.splitlines(), strict=False), 1) if a != b
        ]
        assert changed[:1] == [fault.line]


def test_messages_annotations_docstrings_and_module_constants_are_left_alone():
    olds = {fault.old for fault in faults("a.py", SOURCE)}
    assert not any("must be" in old or "part + 1" in old or "LIMIT = 3" in old or "Returns" in old for old in olds)


def test_tests_of_the_file_of_the_fault_come_first_then_the_fastest_until_time_is_up():
    seconds = {"tests/test_b.py::x": 9.0, "tests/test_c.py::y": 2.0, "tests/test_c.py::z": 1.0, "tests/test_d.py::w": 1}
    tests = ["tests/test_b.py::x", "tests/test_c.py"]
    assert order(tests, seconds, "b.py", 1e9) == [
        "tests/test_b.py::x",
        "tests/test_c.py::z",
        "tests/test_c.py::y",
    ]
    assert order(tests, seconds, "b.py", limit=10.5) == ["tests/test_b.py::x", "tests/test_c.py::z"]


def test_a_fault_that_a_test_sees_is_caught_and_another_is_not(tmp_path, monkeypatch):
    """The whole way: a fork of a worker runs the tests of a copy with the fault in it."""
    copy = tmp_path / "copy"
    (copy / "tests").mkdir(parents=True)
    (copy / "tool.py").write_text("def double(n):\n    if n > 1000:\n        n = n + 0\n    return n * 2\n")
    (copy / "tests" / "test_tool.py").write_text("import tool\n\ndef test_two():\n    assert tool.double(2) == 4\n")
    covering = {
        "lines": {"tool.py": {line: ["tests/test_tool.py::test_two"] for line in "234"}},
        "seconds": {"tests/test_tool.py::test_two": 0.1},
    }
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import trying
from pathlib import Path
from planting import faults
trying.LIBRARIES = ()
trying._WORKER.update({covering!r}, copy=Path({str(copy)!r}), budget=60.0)
source = Path({str(copy / "tool.py")!r}).read_bytes()
for fault in faults("tool.py", source):
    print(trying.attempt(fault), fault.new)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    lines = set(done.stdout.splitlines())
    assert {"True (n / 2)", "True return None", "False (n - 0)", "False (n >= 1000)"} <= lines, done
    assert (copy / "tool.py").read_text().count("n * 2") == 1, "the copy is as it was"
