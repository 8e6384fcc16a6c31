"""`bench validate`: every test of the harness, part by part; a part that is finished is never measured twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import store
from bench.errors import EnvironmentUnavailable, GateError, InputError
from bench.machine import describe
from bench.measure import provenance
from bench.validate.row import PASSED, Outcome, Row

SCHEMA = "bench.validate/1"
QUICK = ("observer", "real_steps", "same", "known", "drift", "usable", "containers")
FULL = (*QUICK, "frameworks")

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The rows so far, what could not be tested and why, and where and when."""

    facts: Mapping[str, Any]
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many tests passed, were left undecided, and failed."""
        outcomes = [row.outcome for row in self.rows]
        return {name: outcomes.count(name) for name in PASSED}

    @property
    def told(self) -> str:
        """The same in a line: "64 passed, 2 undecided, 0 failed"."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items())

    @property
    def outcome(self) -> Outcome:
        """Failed where any test did, passed where all did."""
        counts = self.counts
        return "failed" if counts["failed"] else "undecided" if counts["undecided"] else "passed"

    def to_json(self) -> dict[str, Any]:
        """As `--format json` prints it."""
        skipped = [{"part": part, "reason": reason} for part, reason in self.skipped.items()]
        tests = [row.to_json() for row in self.rows]
        whole = {"outcome": self.outcome, "passed": PASSED[self.outcome], "counts": self.counts}
        return {"schema": SCHEMA, **self.facts, **whole, "tests": tests, "skipped": skipped}

    def gate(self) -> None:
        """Raises GateError naming what failed; what is undecided speaks neither for nor against the harness."""
        failed = [row.name for row in self.rows if row.outcome == "failed"]
        if failed:
            raise GateError(f"{len(failed)} of {len(self.rows)} tests failed: {'; '.join(failed)}")


def begin(*, full: bool, out: Path, only: Iterable[str], seed: int) -> Path:
    """A new validation's folder inside `out`, with what it is to do. Raises InputError: no such part."""
    parts = FULL if full else QUICK
    for name in only:
        if name not in FULL:
            raise InputError(f'part "{name}" is unknown; choose {", ".join(FULL)}')
    kind = "full" if full else "quick"
    folder = out / f"validate-{kind}-{provenance.fresh_id()}"
    folder.mkdir(parents=True)
    machine = describe.describe(device="cpu")
    facts = {
        "kind": kind,
        "seed": seed,
        "parts": [name for name in FULL if name in (tuple(only) or parts)],
        "started_at": provenance.now(),
        "seconds": 0.0,
        "commit": machine["commit"],
        "dirty": machine["dirty"],
        "environment": machine,
    }
    store.replace_file(folder / "validate.json", facts)
    return folder


def carry_on(folder: Path, progress: Progress) -> Report:
    """Do the parts that are not finished, and keep each as it ends. Raises InputError: no validation is in `folder`."""
    facts = _facts(folder)
    finished: dict[str, list[Row]] = {}
    skipped: dict[str, str] = {}
    for part in facts["parts"]:
        kept = folder / f"{part}.json"
        if not kept.exists():
            progress(f"{part} …")
            began = time.monotonic()
            try:
                measured = list(_told(_rows(part, folder, facts, progress), progress))
            except EnvironmentUnavailable as reason:
                skipped[part] = str(reason)
                progress(f"{part}: skipped, because {reason}")
                continue
            store.replace_file(kept, {"rows": [row.to_json() for row in measured]})
            facts["seconds"] = round(facts["seconds"] + time.monotonic() - began, 1)
            store.replace_file(folder / "validate.json", facts)
        finished[part] = [Row.from_json(plain) for plain in json.loads(kept.read_text(encoding="utf-8"))["rows"]]
    found = tuple(row for rows in finished.values() for row in rows)
    return Report(facts=facts, rows=found, skipped=skipped)


def _rows(part: str, folder: Path, facts: Mapping[str, Any], progress: Progress) -> Iterable[Row]:
    from bench.validate import frameworks, observer, processes, real_steps, usable

    full, seed, out = facts["kind"] == "full", facts["seed"], folder / part
    stubs = {"full": full, "launcher": "local", "out": out, "seed": seed}
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "observer": lambda: observer.rows(seed=seed),
        "real_steps": lambda: real_steps.rows(full=full, seed=seed, progress=progress),
        "same": lambda: processes.same(**stubs),
        "known": lambda: processes.known(**stubs),
        "drift": lambda: processes.drifts(**stubs),
        "usable": lambda: usable.rows(**stubs),
        "containers": lambda: processes.in_containers(full=full, out=out, seed=seed),
        "frameworks": lambda: frameworks.rows(out=out, seed=seed),
    }
    return parts[part]()


def _told(rows: Iterable[Row], progress: Progress) -> Iterable[Row]:
    for row in rows:
        progress(row.line)
        yield row


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "validate.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no validate.json here; name the folder of a stopped validation") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{folder}/validate.json: cannot be read ({error}); start a new validation") from None
    return dict(facts)
