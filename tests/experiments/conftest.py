"""Fixtures of tests of comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_comparison import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A folder for comparisons that are planned, and not trained."""
    return Shelf(tmp_path)
