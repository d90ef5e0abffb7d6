"""The site is built from docs/ without a warning, and fetches nothing when it is read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?https?://[^>]*>|@import url\(\W?http")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.html"))
    assert {Path("index.html"), Path("start.html"), Path("reference/strategy.html")} <= {*pages}
    fetched = {page: FETCHED.findall((tmp_path / page).read_text(encoding="utf-8")) for page in pages}
    assert not any(fetched.values()), fetched
    for name in ("Strategy.before_stage", "RunView.forward", "Strategy.loss_terms"):
        assert f'id="cl_mlm.strategy.{name}"' in (tmp_path / "reference" / "strategy.html").read_text(encoding="utf-8")
