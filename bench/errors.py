"""What can go wrong, one sentence each; raised anywhere, caught once in `bench.cli.main`."""

from __future__ import annotations


class BenchError(Exception):
    """Something failed that the user can act on: the message says what, where and what to do."""

    exit_code = 3


class InputError(BenchError):
    """The command line, a matrix or an absent device: nothing was run (exit 2)."""

    exit_code = 2


class GateError(BenchError):
    """A gate that was asked for did not hold (exit 1)."""

    exit_code = 1


class EnvironmentUnavailable(BenchError):  # noqa: N818 - a state of the machine, not a mistake
    """An engine, image, wheel or data set cannot be had on this machine; another launcher may still serve."""


class EngineLost(BenchError):  # noqa: N818
    """The container engine went away during the run: everything finished is kept, and the run can be resumed."""


class StorageFailed(BenchError):  # noqa: N818
    """A disk or a folder refused: it is full, has gone or may not be written to; everything finished is kept.

    `reason` is the system's word for it, without a path.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ProcessRefused(BenchError):  # noqa: N818
    """The machine did not start a program of bench's; everything finished is kept."""


class WorkerFailed(BenchError):  # noqa: N818
    """A worker crashed, hung, was killed or answered nonsense; `kind` says which, `log` is the end of its stderr."""

    def __init__(self, message: str, *, kind: str, log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log = log
