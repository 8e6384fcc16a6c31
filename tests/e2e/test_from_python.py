"""The example of docs/api.md that measures, with real frameworks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text(encoding="utf-8")


@pytest.mark.framework
def test_a_mapping_is_measured_and_gives_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "bench.run(" in one]
    *statements, last = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(statements), names)
    contrasts = eval(last, names)
    assert isinstance(contrasts, pd.DataFrame)
    assert sorted(contrasts["batch_size"]) == [32, 256]
    assert set(contrasts["parity"]) == {"passed"}
    assert names["run"].folder.parent.resolve() == tmp_path / "runs"
