"""A workload's parameters, checked; what is wrong raises ValueError with one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.contract import Value

Values = dict[str, Value]


def whole(values: Values, name: str, low: int, high: int) -> int:
    """The parameter, a whole number within both bounds."""
    value = values[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def number(values: Values, name: str, high: float) -> float:
    """The parameter, from 0 to below `high`; a float from now on."""
    value = values[name]
    if type(value) not in (int, float) or not 0 <= value < high:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; it must be a number from 0 to below {high:g}")
    values[name] = float(value)  # type: ignore[arg-type]
    return float(value)  # type: ignore[arg-type]


def choice(values: Values, name: str, allowed: Sequence[str]) -> str:
    """The parameter, one of the words."""
    value = values[name]
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is unknown; choose {' or '.join(allowed)}")
    return str(value)
