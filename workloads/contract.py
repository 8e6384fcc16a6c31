"""The only words that host and worker share: cells, and JSON lines of one question and one answer.

Standard library alone: this module is imported on both sides of the container's wall.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SCHEMA = "bench.worker/1"

# One message, in bytes: the largest is a parity trace, all weights and their gradients in float64 as base64.
MESSAGE_LIMIT_BYTES = 512 * 2**20
# A worker that hears nothing at all for this long has lost its harness and exits.
SILENCE_LIMIT_S = 30.0

PHASES = ("train", "infer")
MODES = ("eager", "graph", "compiled")
PRECISIONS = ("fp32",)
DEVICES = ("auto", "cpu", "cuda")
DIVISIONS = ("matched",)
STUB = "stub"  # as workload and as framework: known work, to hold the harness to its own standard

Value = str | int | float | bool | None


class ContractError(ValueError):
    """A message that is not of this contract: broken JSON, an unknown schema or a missing field."""


class Unsupported(Exception):  # noqa: N818 - an answer, not a mistake
    """This framework cannot do what the cell asks for (a mode, a device); the message says why."""


class GpuAbsent(Exception):  # noqa: N818 - a fact about where the worker runs
    """The GPU that was asked for is not seen from inside; the message says what is."""


@dataclass(frozen=True)
class Named:
    """A name with its parameters: a workload with its sizes, a framework with its version and image."""

    name: str
    parameters: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, name: str, parameters: Mapping[str, Value] | None = None) -> Named:
        """The same name and parameters are equal, in whatever order they were written."""
        return cls(name, tuple(sorted((parameters or {}).items())))

    def get(self, key: str, default: Value = None) -> Value:
        """The parameter `key`, or `default`."""
        return dict(self.parameters).get(key, default)

    @property
    def mapping(self) -> dict[str, Value]:
        """The parameters as a dictionary."""
        return dict(self.parameters)

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.parameters)})"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the matrix: a value for every axis."""

    workload: Named
    framework: Named
    phase: str = "train"
    mode: str = "eager"
    batch_size: int = 64
    precision: str = "fp32"
    device: str = "auto"
    threads: int = 1
    division: str = "matched"
    launcher: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, names with their parameters flattened: {"workload": {"name": …, "n": …}, …}."""
        plain = asdict(self)
        for axis in ("workload", "framework"):
            named: Named = getattr(self, axis)
            plain[axis] = {"name": named.name, **named.mapping}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Cell:
        """The inverse of `to_json`."""
        values = dict(plain)
        for axis in ("workload", "framework"):
            parameters = dict(values[axis])
            values[axis] = Named.of(parameters.pop("name"), parameters)
        return cls(**values)


AXES = tuple(f.name for f in fields(Cell))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a worker. `limit_s` is how long the harness will wait for the answer."""

    id: int
    verb: str
    args: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """One JSON line."""
        return _line({"schema": SCHEMA, "id": self.id, "verb": self.verb, "args": self.args})

    @classmethod
    def decode(cls, line: bytes) -> Request:
        """Raises ContractError with one sentence if the line is no request of this schema."""
        plain = _parse(line)
        try:
            return cls(id=int(plain["id"]), verb=str(plain["verb"]), args=dict(plain["args"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"a request lacks or misspells a field: {error!r}") from None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: a result, or the kind (`unsupported`, `no_gpu`, `failed`) and text of an error."""

    id: int
    result: dict[str, Any] | None = None
    error: str | None = None
    kind: str | None = None

    def encode(self) -> bytes:
        """One JSON line."""
        return _line({"schema": SCHEMA, "id": self.id, "result": self.result, "error": self.error, "kind": self.kind})

    @classmethod
    def decode(cls, line: bytes) -> Answer:
        """Raises ContractError with one sentence if the line is no answer of this schema."""
        plain = _parse(line)
        try:
            answer = cls(id=int(plain["id"]), result=plain["result"], error=plain["error"], kind=plain["kind"])
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"an answer lacks or misspells a field: {error!r}") from None
        if (answer.error is None) == (answer.result is None) or not isinstance(answer.result, dict | None):
            raise ContractError("an answer holds either a result or an error")
        return answer


HEARTBEAT = Request(id=0, verb="heartbeat")


def pack(array: Any) -> dict[str, Any]:
    """A NumPy array of any shape as JSON: dtype, shape and its bytes in base64, C order, little endian."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def unpack(plain: Mapping[str, Any]) -> Any:
    """The inverse of `pack`; needs NumPy, which both sides have."""
    import numpy as np

    data = np.frombuffer(base64.b64decode(plain["data"]), dtype=np.dtype(plain["dtype"]).newbyteorder("<"))
    return data.astype(plain["dtype"]).reshape(plain["shape"])


def finite(value: float) -> float | None:
    """JSON has no NaN: a value that is not finite becomes None."""
    return float(value) if math.isfinite(value) else None


def _line(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except ValueError:
        raise ContractError(f"not a JSON line: {line[:80]!r}") from None
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        found = plain.get("schema") if isinstance(plain, dict) else type(plain).__name__
        raise ContractError(f"schema {found!r} is unknown; this side speaks {SCHEMA}")
    return plain
