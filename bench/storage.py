"""What a disk, a folder or the machine refuses, as one sentence: what, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import ProcessRefused, StorageFailed

# Of files and folders alone: what a network or a process refuses has other words, and its own remedies.
_REMEDIES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within this user's quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "make its file system writable",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.ENOENT: "it was moved or removed meanwhile",
    errno.ENOTDIR: "it was moved or removed meanwhile",
    errno.ESTALE: "it was moved or removed meanwhile",
    errno.EISDIR: "move the folder of that name away",
    errno.ENOTEMPTY: "move the folder of that name away",
    errno.EIO: "its disk is failing: take another one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend its symbolic links",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "end what else holds files open on this machine",
    errno.ENODEV: "attach its disk again",
    errno.ENXIO: "attach its disk again",
}
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)


@contextmanager
def told(where: Path, *, remedy: str = "") -> Iterator[None]:
    """Raises StorageFailed for whatever a disk refuses inside the block; what else fails stays what it is.

    where   the folder or file that is named, unless the error names one outside of it
    remedy  what may be done beside that which mends the cause
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise StorageFailed(sentence(error, where, remedy=remedy), reason=error.strerror or str(error)) from None


def is_refusal(error: OSError) -> bool:
    """Whether a disk or the machine's limits refused something, and no program is at fault."""
    return error.errno in _REMEDIES


def sentence(error: OSError, where: Path | None = None, *, remedy: str = "") -> str:
    """What was refused, why, and what to do."""
    named = error.filename if isinstance(error.filename, str | os.PathLike) else None
    outside = where and named and not Path(named).absolute().is_relative_to(where.absolute())
    place = named if outside else where or named or "a file or the output"
    advice = [one for one in (_REMEDIES.get(error.errno or 0), remedy) if one]
    return f"{place}: cannot be used ({error.strerror or error})" + (f"; {', or '.join(advice)}" if advice else "")


def process_refused(what: str, error: OSError, *, remedy: str) -> ProcessRefused:
    """A program that the machine does not start.

    remedy  what to do where the program itself is at fault, and not a lack of memory or of processes
    """
    if error.errno in _NO_ROOM:
        remedy = "free memory, or end or allow more processes (ulimit -u)"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = _REMEDIES[error.errno]
    return ProcessRefused(f"{what} cannot be started ({error.strerror or error}); {remedy}")
