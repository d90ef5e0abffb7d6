"""The cost of a Fisher pass is measured on models that write; timed on an idle machine only, so not here."""

import argparse
from pathlib import Path

import pytest

from benchmarks.fisher import CASES, measure


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case[1] != "smollm2"], ids=lambda case: case[0])
def test_every_small_case_gives_a_ratio(case, tmp_path: Path):
    options = argparse.Namespace(smollm2=None, rows=8, threads=1, quads=1, max_seconds=1.0)
    assert measure(case, options, tmp_path).value > 0
