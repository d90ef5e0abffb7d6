"""A stage of a long stream takes no more than one of a short stream; timed on an idle machine only, so not here."""

import pytest

from benchmarks.long_stream import faults, line, measured


def reading(stage, seconds, **held):
    return {"stage": stage, "seconds": seconds, "bytes": 10**9, "files": 9, "maps": 1700, "threads": 7} | held


def test_growth_is_named():
    flat = line(100, {"before": 1.0, "whole": 2.0, "readings": [reading(10 * i, 0.1 * i) for i in range(1, 11)]})
    assert faults([flat]) == []
    steep = [reading(10 * i, 0.1 * i * i, files=3 * i, bytes=10**9 + 10**5 * i) for i in range(1, 101)]
    found = faults([flat, line(1000, {"before": 1.0, "whole": 2.0, "readings": steep})])
    assert found == [
        "1000 stages: 237 more files",
        "1000 stages: 10000 bytes a stage",
        "1000 stages: a stage takes 180.0 times as long as of 100",
    ]


@pytest.mark.slow
def test_six_hundred_stages_hold_no_more_than_sixty():
    told = line(600, measured(600, ["naive"]))
    assert [fault for fault in faults([told]) if "bytes" not in fault and "times" not in fault] == []
