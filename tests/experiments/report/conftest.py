"""What the tests of a comparison's report share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sptune.report.plots import style


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Small pictures and few resamples, for tests to which neither matters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 30)
        patch.setattr("sptune.experiments.report.findings.SAMPLES", 200)
        yield
