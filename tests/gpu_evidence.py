"""For somebody with a GPU: the whole way on it, and one archive of all that the numbers rest on.

    python tests/gpu_evidence.py [MATRIX]        the built-in matrix gpu, if none is named

Exit codes are those of `bench run`; without a GPU, 2 and one sentence. No host or user name, no serial number is kept.
"""

from __future__ import annotations

import getpass
import io
import json
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.telemetry import nvml

BENCH = (sys.executable, "-m", "bench")
STEPS_LIMIT_BYTES = 50 * 2**20  # raw samples beyond this stay in the run folder
DOCKER_FACTS = (
    "ServerVersion", "Driver", "CgroupDriver", "CgroupVersion", "DefaultRuntime", "CDISpecDirs", "DiscoveredDevices",
    "KernelVersion", "OperatingSystem", "Architecture", "NCPU", "MemTotal", "SecurityOptions",
)  # fmt: skip
PROCESSES = re.compile(r"(?m)^( *)Processes *(?::.*)?\n(?:\1 +.*\n)*")  # of others: their programs and paths
PRIVATE = re.compile(r"(?im)^(\s*(?:serial number|board id|host name|user name)[^:]*: ).*$")


def main(arguments: Sequence[str]) -> int:
    """Check, build, run, report, pack; what fails is in the archive too."""
    if nvml.source() != "nvml":
        words = "it is a replayed trace" if nvml.source() == "replay" else "the driver's library shows none"
        print(f"gpu: no NVIDIA GPU answers on this machine ({words}); run this where nvidia-smi works", file=sys.stderr)
        return 2
    if len(arguments) > 1:
        print("gpu: at most one matrix; name it alone", file=sys.stderr)
        return 2
    (matrix,) = arguments or ("gpu",)
    out = Path("runs").resolve()
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder)
        keep(kept / "check.json", *BENCH, "check", "--format", "json")
        keep(kept / "images-build.json", *BENCH, "images", "build", "--flavour", "cuda", "--format", "json")
        before = set(out.glob("*"))
        ran = ("run", "--matrix", matrix, "--device", "cuda", "--launcher", "docker", "--out", out)
        code = keep(kept / "run.txt", *BENCH, *map(str, ran))
        new = sorted(set(out.glob("*")) - before)
        archive = pack(new[-1] if new else None, kept, out)
    print(archive)
    return code


def keep(file: Path, *command: str) -> int:
    """Run, show what it says of its progress, and keep all that it printed; gives the exit code."""
    said = []
    try:
        with (
            file.open("w") as printed,
            subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE, text=True) as process,
        ):
            assert process.stderr
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                said.append(line)
    except OSError as error:
        file.write_text(f"{command[0]}: {error.strerror}\n")
        return 127
    file.write_text(without_names(file.read_text()))
    file.with_suffix(".log").write_text(without_names("".join(said)) + f"exit status {process.returncode}\n")
    return process.returncode


def without_names(text: str) -> str:
    """Neither the host's name, the user's nor their home folder, nor serial numbers and what else ran on the GPU."""
    text = PRIVATE.sub(r"\1withheld", PROCESSES.sub("", text))
    for name, instead in ((str(Path.home()), "~"), (socket.gethostname(), "HOST"), (getpass.getuser(), "USER")):
        if len(name) > 1:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", instead, text)
    return text


def pack(run: Path | None, kept: Path, out: Path) -> Path:
    """One archive in `out`: the run's folder and reports, what `kept` holds, the machine, the engine, the versions.

    run  None where nothing was measured
    """
    describe(kept)
    if run:
        keep(kept / "report.json", *BENCH, "report", str(run), "--format", "json")
        keep(kept / "report.md", *BENCH, "report", str(run), "--format", "markdown")
        keep(kept / "telemetry.json", *BENCH, "telemetry", "show", str(run), "--format", "json")
        keep(kept / "charts.txt", *BENCH, "telemetry", "chart", str(run))
    out.mkdir(parents=True, exist_ok=True)
    name = f"evidence-{run.name if run else datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    archive = out / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(kept.iterdir()):
            tar.add(file, f"{name}/{file.name}", filter=_anonymous)
        for file in sorted(run.rglob("*")) if run else ():
            if file.is_file() and not (file.parent.name == "steps" and _size_bytes(run / "steps") > STEPS_LIMIT_BYTES):
                _add_from_run(tar, file, f"{name}/run/{file.relative_to(run)}")
    return archive


def describe(kept: Path) -> None:
    """The GPU, the engine and the versions, a file each; a program that is absent says so in its file."""
    keep(kept / "nvidia-smi.txt", "nvidia-smi", "-q")
    keep(kept / "images.json", *BENCH, "images", "list", "--format", "json")
    keep(kept / "bench-version.txt", *BENCH, "--version")
    keep(kept / "packages.txt", sys.executable, "-m", "pip", "list", "--format", "freeze")
    keep(kept / "docker-version.txt", "docker", "version")
    info = kept / "docker-info.json"
    keep(info, "docker", "info", "--format", "{{json .}}")
    try:
        told = json.loads(info.read_text())
    except ValueError:
        return
    facts = {name: told[name] for name in DOCKER_FACTS if name in told}
    info.write_text(json.dumps(facts | {"Runtimes": sorted(told.get("Runtimes") or {})}, indent=1))


def _add_from_run(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """Of what is written in words, without names; raw samples are numbers."""
    if file.suffix == ".parquet":
        tar.add(file, name, filter=_anonymous)
        return
    content = without_names(file.read_text(errors="replace")).encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o644, int(file.stat().st_mtime)
    tar.addfile(entry, io.BytesIO(content))


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of who packed it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
