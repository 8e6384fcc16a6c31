"""What may stand in a matrix file: pydantic models and their JSON Schema."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, core_schema

import workloads
from bench import frameworks
from bench.matrix.launcher import AUTO, LAUNCHERS
from bench.records import DEFAULT_HZ, MAXIMUM_HZ
from bench.text import quoted
from workloads.contract import (
    DEVICES,
    DIVISIONS,
    MODES,
    PHASES,
    PRECISIONS,
    STUB,
    Cell,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

SCHEDULES = ("lockstep", "serial")
# The axes on which arms may differ and still do the same work.
COMPARABLE = ("framework", "mode", "precision", "device", "threads", "division", "launcher")
SEED_LIMIT = 2**32 - 1
DURATION_LIMIT_S = 30 * 86_400.0
SOAK_LIMIT_S = 600.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)\Z")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Spec(Protocol):
    """The part of a workload's `spec.py` that a matrix needs."""

    PARAMETERS: tuple[str, ...]
    NEEDS_DATA: bool  # whether it reads MNIST

    def parameters(self, given: Mapping[str, Value], /) -> dict[str, Value]:
        """The complete parameters; ValueError with one sentence."""

    def batch_size(self, parameters: Mapping[str, Value], asked: int, /) -> int:
        """The batch size as run: a data set smaller than a batch is one full batch."""


def known_workloads() -> tuple[str, ...]:
    """The folders of `workloads` that hold a spec; there is no other registry. The stub compares no frameworks."""
    names = sorted(path.parent.name for path in Path(workloads.__path__[0]).glob("*/spec.py"))
    return tuple(name for name in names if name != STUB)


def spec_of(workload: str) -> Spec:
    """The spec module of a known workload."""
    return cast("Spec", importlib.import_module(f"workloads.{workload}.spec"))


def seconds(value: str | float) -> float:
    """A duration in seconds from "90s", "5m", "1.5h" or a plain number of seconds.

    raises  ValueError: one sentence, the value quoted
    """
    found = _DURATION.match(value.strip()) if isinstance(value, str) else None
    if found:
        duration = float(found[1]) * _UNITS_S[found[2]]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{quoted(str(value))} is not a duration; write 90s, 5m, 1h or a number of seconds")
    else:
        duration = float(value)
    if not (math.isfinite(duration) and 0 < duration <= DURATION_LIMIT_S):
        raise ValueError(f"{quoted(str(value))} is no usable duration; write more than 0 s and at most 30 days")
    return duration


@dataclass(frozen=True)
class _Choice:
    """One word out of several, in the model and in its JSON Schema; `unlisted` is allowed and not proposed."""

    words: Callable[[], tuple[str, ...]]
    unlisted: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": [*self.words(), *self.unlisted]}

    def check(self, value: Any) -> str:
        if isinstance(value, str) and value in (*self.words(), *self.unlisted):
            return value
        raise PydanticCustomError("choice", "unknown", {"choices": self.words()})


def _named(value: Any) -> Any:
    """A bare name stands for a mapping with that name and nothing else."""
    return value if isinstance(value, dict) else {"name": value}


def _listed(value: Any) -> Any:
    """One value stands for a list of it."""
    return value if isinstance(value, list) else [value]


def _duration(value: Any) -> float:
    return seconds(value)


def _soak(value: Any) -> float | None:
    """None: where something is read that moves too slowly for slices; 0: never; else seconds."""
    if value in ("auto", "off"):
        return None if value == "auto" else 0.0
    try:
        found = seconds(value)
    except ValueError:
        raise ValueError(f"{quoted(str(value))} is no length of a soak; write auto, off or a duration as 3s") from None
    if found > SOAK_LIMIT_S:
        raise ValueError(f"{quoted(str(value))} is too long for a soak of every arm in every block; write up to 10m")
    return found


def _baseline(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | dict | None):
        raise ValueError(f"{quoted(str(value))} is no value of the compared axis and no mapping; write one of them")
    return value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


WorkloadName = Annotated[str, _Choice(known_workloads, unlisted=(STUB,))]
FrameworkName = Annotated[str, _Choice(lambda: tuple(frameworks.every()), unlisted=(STUB,))]


class Workload(BaseModel):
    """A workload with its parameters, which its own spec checks."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    name: WorkloadName = Field(description="a folder of workloads/")


class Framework(_Model):
    """A framework with its version and image."""

    name: FrameworkName
    version: str | None = Field(
        default=None, pattern=r"^[0-9][0-9A-Za-z.+!-]{0,63}$", description="exactly as released"
    )
    image: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$", description="an image")
    work: Annotated[float, Field(gt=0, le=100)] | None = Field(default=None, description="of a stub, relative")
    noise: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="of a stub: SD over processes")
    slows: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="of a stub, in 1,000 steps")
    slows_from: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="a stub's step, from which it slows"
    )
    slows_until: Annotated[int, Field(ge=0)] | None = Field(default=None, description="… at which it is as at first")
    dies_at: Annotated[int, Field(ge=0)] | None = Field(default=None, description="of a stub: its last step in a block")
    recompiles: bool | None = Field(default=None, description="a stub that compiles while it is timed")

    @property
    def parameters(self) -> dict[str, Value]:
        """What was given beside the name."""
        return {key: value for key, value in self.model_dump().items() if key != "name" and value is not None}


WorkloadGiven = Annotated[Workload, BeforeValidator(_named, json_schema_input_type=WorkloadName | Workload)]
FrameworkGiven = Annotated[Framework, BeforeValidator(_named, json_schema_input_type=FrameworkName | Framework)]
Phase = Annotated[str, _Choice(lambda: PHASES)]
Mode = Annotated[str, _Choice(lambda: MODES)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Precision = Annotated[str, _Choice(lambda: PRECISIONS)]
Device = Annotated[str, _Choice(lambda: DEVICES)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Division = Annotated[str, _Choice(lambda: DIVISIONS)]
Launcher = Annotated[str, _Choice(lambda: (AUTO, *LAUNCHERS))]
Compared = Annotated[str, _Choice(lambda: COMPARABLE)]
Duration = Annotated[float, BeforeValidator(_duration, json_schema_input_type=float | str)]


def _axis(description: str, default: list[Any] | None = None) -> Any:
    if default is None:
        return Field(min_length=1, description=description)
    return Field(default=default, min_length=1, description=description)


class Axes(_Model):
    """Everything that varies: the matrix is the product of these lists."""

    workload: list[WorkloadGiven] = _axis("workloads, by name or as {name: …, parameters}")
    framework: list[FrameworkGiven] = _axis(
        "frameworks, by name or as {name: …, version: …, image: …}",
        [Framework(name=name) for name in frameworks.defaults()],
    )
    phase: list[Phase] = _axis("train is one optimizer step, infer one forward pass", [Cell.phase])
    mode: list[Mode] = _axis("eager, graph (where a framework has it) or compiled", [Cell.mode])
    batch_size: list[BatchSize] = _axis("samples a step", [Cell.batch_size])
    precision: list[Precision] = _axis("of weights and arithmetic", [Cell.precision])
    device: list[Device] = _axis("auto is cuda where there is one, else cpu", [Cell.device])
    threads: list[Threads] = _axis("CPU threads of an arm", [Cell.threads])
    division: list[Division] = _axis("matched: both implementations equal, line for line", [Cell.division])
    launcher: list[Launcher] = _axis(
        "auto is docker where an engine answers, else local; docker-volume and docker-image hold the data elsewhere",
        [Cell.launcher],
    )


def _absent() -> Any:
    return Field(default=None)


class Entry(_Model):
    """One entry of include or exclude: one value for some of the axes."""

    workload: WorkloadGiven = _absent()
    framework: FrameworkGiven = _absent()
    phase: Phase = _absent()
    mode: Mode = _absent()
    batch_size: BatchSize = _absent()
    precision: Precision = _absent()
    device: Device = _absent()
    threads: Threads = _absent()
    division: Division = _absent()
    launcher: Launcher = _absent()


class BudgetGiven(_Model):
    """When to stop."""

    half_width: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.02, description="of a ratio's interval")
    blocks: Annotated[int, Field(ge=1, le=10_000)] | None = Field(default=None, description="exactly, a comparison")
    max_blocks: Annotated[int, Field(ge=1, le=10_000)] = Field(default=40, description="at most, a comparison")
    per_comparison: Duration = Field(default=300.0, description="90s, 5m, 1h or seconds")
    total: Duration = Field(default=3600.0, description="90s, 5m, 1h or seconds")


class TelemetryGiven(_Model):
    """What is read beside the measurement."""

    hz: Annotated[float, Field(gt=0, le=MAXIMUM_HZ)] = Field(default=DEFAULT_HZ, description="readings a second")
    soak: Annotated[float | None, BeforeValidator(_soak, json_schema_input_type=float | str)] = Field(
        default=None,
        description="how long each arm runs on in every block for what moves slowly: auto, off, or a duration as 3s",
    )


class MatrixFile(_Model):
    """A matrix: what to measure, against what, and for how long."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="else the file's")
    compare: Annotated[
        list[Compared],
        BeforeValidator(_listed, json_schema_input_type=Compared | list[Compared]),
        Field(min_length=1, description="the axes on which the arms of a comparison differ"),
    ] = ["framework"]
    baseline: Annotated[str | int | dict[str, Any] | None, BeforeValidator(_baseline)] = Field(
        default=None, description="the arm that ratios are taken against: its value on the compared axis, or a mapping"
    )
    axes: Axes
    include: list[Entry] = Field(default=[], description="cells beside the product; absent axes take their first value")
    exclude: list[Entry] = Field(default=[], description="cells to leave out of the product")
    budget: BudgetGiven = BudgetGiven()
    telemetry: TelemetryGiven = TelemetryGiven()
    threads: Threads | None = Field(default=None, description="short for axes: {threads: [n]}")
    schedule: Annotated[str, _Choice(lambda: SCHEDULES)] = Field(
        default="lockstep", description="serial: arms that do not fit into memory together, one after another"
    )
    seed: Annotated[int, Field(ge=0, le=SEED_LIMIT)] = 0


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a matrix file, for editors and for `bench matrix schema`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **MatrixFile.model_json_schema()}
