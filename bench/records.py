"""What the records of a run say of themselves: which blocks count, and what a certificate allows (pure)."""

from __future__ import annotations

import hashlib
import json
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Readings of telemetry a second: what a matrix asks for where it says nothing, and the most that can be had.
DEFAULT_HZ, MAXIMUM_HZ = 10.0, 100.0
# Which times decide, by phase, and how those are taken.
DECIDES = {"train": "throughput", "infer": "latency"}
SYNC = {"throughput": "slice", "latency": "step"}

REFERENCE = "reference"  # the NumPy reference, as a side
MEASURED = ("passed", "skipped")  # a contrast with such a certificate is measured
LEFT_OUT = ("unsupported", "broken")  # nothing was proved, because a side or the reference said so, or failed

FAULTS = ("compilation", "too fast")  # causes: what was timed was not the work, or not all of it

Record = Mapping[str, Any]
ENOUGH_UNDISTURBED = 6  # attempts, from which on disturbed ones do not count
FAILURES_IN_A_ROW = 3  # of one arm, after which it is not started any more


def left_out(records: Iterable[Record]) -> dict[str, str]:
    """The arms that are not started any more, and why: unsupported, failed three times in a row, or did other work.

    What was stopped because another arm failed says nothing of an arm.

    records  of this comparison alone, every attempt, oldest first
    """
    outcomes: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for arm, outcome in record["arms"].items():
            if outcome["status"] != "stopped":
                outcomes[arm].append(outcome)
    found = {}
    for arm, own in outcomes.items():
        last = own[-FAILURES_IN_A_ROW:]
        other_work = next(
            (closing["reason"] for one in own if (closing := one.get("closing")) and closing["reason"]), ""
        )
        if last[-1]["status"] == "unsupported":
            found[arm] = f"{arm} is unsupported: {last[-1]['reason']}"
        elif other_work:
            found[arm] = other_work
        elif len(last) == FAILURES_IN_A_ROW and all(outcome["status"] == "failed" for outcome in last):
            found[arm] = f"{arm} failed in {FAILURES_IN_A_ROW} blocks in a row: {last[-1]['reason']}"
    return found


def latest(records: Iterable[Record]) -> list[Record]:
    """The record that counts of every block, the one of its last attempt, by comparison and block."""
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        key = (record["comparison"], record["block"])
        if key not in newest or record["attempt"] >= newest[key]["attempt"]:
            newest[key] = record
    return [newest[key] for key in sorted(newest)]


def valid(record: Record) -> bool:
    """Whether a block counts towards the number that is wanted: whole, and nothing disturbed it."""
    return not record["spoiled"] and is_whole(record)


def is_whole(record: Record) -> bool:
    """Whether a block measured at least two arms: it counts for those that it measured."""
    return len(measured(record)) >= 2


def measured(record: Record) -> set[str]:
    """The arms that a block measured: those that failed in it, were left out, or were measured wrongly are none."""
    arms = {arm for arm, outcome in record["arms"].items() if outcome["status"] == "measured"}
    return arms - faulty(record["spoiled"], arms).keys()


def whole(records: Iterable[Record]) -> list[Record]:
    """Every whole attempt, disturbed ones too, by comparison, block and attempt."""
    key = operator.itemgetter("comparison", "block", "attempt")
    return sorted((record for record in records if is_whole(record)), key=key)


def counting(records: Iterable[Record]) -> list[Record]:
    """Of these whole attempts, those from which figures are taken: the undisturbed ones, or all where they are too few.

    Disturbed attempts are better than no answer: `bench.estimate.verdicts` asks what they may have done.
    """
    every = list(records)
    undisturbed = [record for record in every if not disturbances(record["spoiled"])]
    return undisturbed if len(undisturbed) >= ENOUGH_UNDISTURBED else every


def cause(reason: str) -> str:
    """The words that all reasons of one kind begin with."""
    return reason.partition(":")[0]


def disturbances(reasons: Sequence[str]) -> list[str]:
    """The reasons that say a block was disturbed: what they did to a ratio, other figures may tell."""
    return [reason for reason in reasons if cause(reason) not in FAULTS]


def faulty(reasons: Sequence[str], arms: Iterable[str]) -> dict[str, str]:
    """The arms that were measured wrongly, and how: nothing else of that block could bear their times out."""
    told = [reason for reason in reasons if cause(reason) in FAULTS]
    return {arm: reason for arm in arms for reason in told if reason.partition(": ")[2].startswith(f"{arm} ")}


def machine_key(description: dict[str, Any]) -> str:
    """A short hash of what must be equal before two runs may be pooled or one resumed.

    These are the CPU's model and cores, memory to the GiB, the kernel's major version, and the GPUs' names.
    """
    cpu, memory = description["cpu"], description["memory_bytes"]
    equal = {
        "architecture": description["architecture"],
        "model": cpu["model"],
        "cores": [cpu["logical"], cpu["physical"]],
        "memory_gib": None if memory is None else round(memory / 2**30),
        "kernel": description["kernel"].split(".")[0],
        "gpus": sorted(gpu["name"] for gpu in description["gpus"]),
    }
    return hashlib.sha256(json.dumps(equal, sort_keys=True).encode()).hexdigest()[:16]
