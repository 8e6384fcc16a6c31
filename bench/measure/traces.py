"""Traces, as workers answer them: what was computed, by one arm or by the reference, in the spec's neutral layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.contract import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Piece = Callable[[str, str, int], Mapping[str, Any]]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a worker's `parity` answered: arrays in the spec's neutral layout, float64.

    sensitivity  of the reference, by group: how far one ulp in every weight leads (of losses and weights by step);
                 `timed`: how far ten of the timed precision's lead
    scales       of the reference: the largest that each array of its weights or updates was on the way
    unfetched    how far steps whose losses nobody fetched end from these, and where
    """

    parameter_count: int
    inputs_sha256: str
    groups: Mapping[str, Mapping[str, Array]]
    sensitivity: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    unfetched: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any], piece: Piece | None = None) -> Trace:
        """From the worker's JSON; a loss that was not finite becomes NaN and fails every check.

        piece  (group, name, start) -> the part of a large array that begins there, as `pack` has it
        """
        groups: dict[str, dict[str, Array]] = {}
        for name in ("outputs", "gradients", "weights", "updates"):
            if name in answer:
                groups[name] = {key: unpack(value).astype(np.float64) for key, value in answer[name].items()}
        for group, arrays in answer.get("pieces", {}).items():
            assert piece
            groups[group] = {name: _in_pieces(partial(piece, group, name), given) for name, given in arrays.items()}
        if "losses" in answer:
            losses = [np.nan if loss is None else loss for loss in answer["losses"]]
            groups["losses"] = {"losses": np.asarray(losses, np.float64)}
        return cls(
            parameter_count=answer["parameter_count"],
            inputs_sha256=answer["inputs_sha256"],
            groups=groups,
            sensitivity=answer.get("sensitivity", {}),
            scales={name: scale for name, scale in answer.get("scales", {}).items() if scale is not None},
            unfetched=answer.get("unfetched"),
        )

    @property
    def steps(self) -> int:
        """How many were traced; 0 of an inference."""
        return len(self.groups["losses"]["losses"]) if "losses" in self.groups else 0

    def leads_to(self, group: str) -> float:
        """How far one ulp in every weight leads in this group, over the steps traced; 0 where it was not measured."""
        found = self.sensitivity.get("weights" if group == "updates" else group, 0.0)
        values = found[: self.steps] if isinstance(found, list) else [found]
        return max(map(_or_infinite, values), default=0.0)

    def leads_as_timed(self, group: str) -> list[float]:
        """How far ten ulp of the timed precision lead in this group: of losses by step, else one; none unmeasured."""
        found = self.sensitivity.get("timed", {}).get(group, [])
        return [_or_infinite(value) for value in (found if isinstance(found, list) else [found])]


@dataclass(frozen=True, kw_only=True)
class Slow:
    """The reference's trace at `rate` times the workload's learning rate."""

    rate: float
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class Side:
    """An arm's traces: the same build in float64, and at the precision that is timed.

    slow     in float64 at a lower learning rate, where the horizon is short
    closing  what its timed program told of the steps that it went on with
    """

    arm: str
    float64: Trace
    timed: Trace
    slow: Trace | None = None
    closing: Mapping[str, Any] | None = None


def _or_infinite(value: float | None) -> float:
    return np.inf if value is None else float(value)


def _in_pieces(piece: Callable[[int], Mapping[str, Any]], given: Mapping[str, Any]) -> Array:
    """A large array, piece after piece, in float64."""
    whole = np.empty(int(np.prod(given["shape"])), np.float64)
    start = 0
    while start < whole.size:
        part = unpack(piece(start))
        whole[start : start + part.size] = part
        start += part.size
    return whole.reshape(given["shape"])
