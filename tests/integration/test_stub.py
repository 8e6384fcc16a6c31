"""The stub: known work through the real launchers; what is known must be found."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.matrix.matrix import load


def measured(folder: Path, *arms: str, launcher: str = "local", blocks: int = 10) -> list[dict[str, Any]]:
    """Run stubs with these parameters; the contrasts of the report, each against the first."""
    matrix = folder / "stub.yaml"
    frameworks = ", ".join(f"{{name: stub{', ' if arm else ''}{arm}}}" for arm in arms)
    workload = "{name: stub, bytes: 131072}"
    matrix.write_text(f"axes: {{workload: [{workload}], framework: [{frameworks}]}}\nbudget: {{blocks: {blocks}}}\n")
    command = ["run", "--matrix", str(matrix), "--launcher", launcher, "--out", str(folder / "runs")]
    subprocess.run([sys.executable, "-m", "bench", *command], capture_output=True, check=False)
    (run,) = (folder / "runs").iterdir()
    shown = subprocess.run(
        [sys.executable, "-m", "bench", "report", str(run), "--format", "json"], capture_output=True, check=True
    )
    return list(json.loads(shown.stdout)["contrasts"])


WORK = (1.05, 1.25)


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, Any]]:
    """By how much more work: two arms that do more, and the one that they are held against, in the same blocks."""
    found = measured(tmp_path_factory.mktemp("stub"), "", *(f"work: {work}" for work in WORK))
    return dict(zip(WORK, found, strict=True))


@pytest.mark.parametrize("work", WORK)
def test_more_work_is_slower_by_exactly_that(contrasts: dict[float, dict[str, Any]], work: float) -> None:
    """A quarter beside any neighbour, 5 % where the machine disturbed no block."""
    contrast = contrasts[work]
    assert str(work) in contrast["arm"]
    disturbed = any(caveat["kind"] == "disturbed" for caveat in contrast["caveats"])
    if work > 1.2 or not disturbed:
        assert contrast["verdict"] == "slower", contrast["reason"]
    # Twice the interval: a right interval misses once in twenty, and one of twice its width once in a thousand.
    assert abs(math.log(contrast["ratio"] * work)) <= 2 * contrast["half_width"]
    assert contrast["parity"]["status"] == "skipped"


@pytest.mark.docker
def test_a_stub_runs_in_a_container_too(tmp_path: Path) -> None:
    (contrast,) = measured(tmp_path, "", "work: 1.5", launcher="docker", blocks=2)
    assert 0.6 < contrast["ratio"] < 0.74


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ("workload: [stub], framework: [tensorflow, pytorch]", "workload stub does not exist for framework tensorflow"),
        (
            "workload: [mnist_cnn], framework: [{name: stub}, {name: stub, work: 2}]",
            "does not exist for framework stub",
        ),
        ("workload: [stub], framework: [{name: stub, image: x}, stub]", 'stub has no "image"; choose work'),
        ("workload: [mnist_cnn], framework: [{name: pytorch, work: 2}, tensorflow]", 'pytorch has no "work"'),
    ],
)
def test_a_stub_stands_beside_no_framework(tmp_path: Path, axes: str, sentence: str) -> None:
    matrix = tmp_path / "m.yaml"
    matrix.write_text(f"axes: {{{axes}}}\n")
    with pytest.raises(InputError, match=r"m\.yaml:1: ") as error:
        load(str(matrix))
    assert sentence in str(error.value)
