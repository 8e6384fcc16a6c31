"""What a test needs and this machine lacks: a reason to skip, and in CI, where nothing may be absent, a failure."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRED = os.environ.get("BENCH_REQUIRE") == "1"  # .ci/run


def absent(reason: str) -> NoReturn:
    """Skip this test for `reason`, or fail it where what it needs is required."""
    if REQUIRED:
        pytest.fail(f"BENCH_REQUIRE=1, and {reason}", pytrace=False)
    pytest.skip(reason)
