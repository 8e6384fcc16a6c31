"""The archive that somebody with a GPU sends: packed here from a run of stubs, on a machine without one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import gpu_evidence
import pytest

SCRIPT = Path(gpu_evidence.__file__)
MATRIX = "axes: {workload: [stub], framework: [stub, {name: stub, work: 2}]}\nbudget: {blocks: 1}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of stubs, whatever its verdict."""
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "m.yaml").write_text(MATRIX)
    command = ["run", "--matrix", folder / "m.yaml", "--launcher", "local", "--budget", "1s", "--out", folder / "runs"]
    subprocess.run([sys.executable, "-m", "bench", *command], check=False, capture_output=True)
    (found,) = (folder / "runs").iterdir()
    return found


def packed(run: Path, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The archive's one folder, and its files of text."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "check.json").write_text("[]")
    archive = gpu_evidence.pack(run, tmp_path / "kept", tmp_path / "out")
    with tarfile.open(archive) as tar:
        assert {(entry.uid, entry.uname) for entry in tar} == {(0, "")}
        files = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
        texts = {name: file.read().decode(errors="replace") for name, file in files.items() if file}
    (top,) = {name.partition("/")[0] for name in texts}
    return top, {name.partition("/")[2]: text for name, text in texts.items()}


def test_the_archive_holds_the_run_its_reports_and_where_it_ran(run: Path, tmp_path: Path) -> None:
    top, texts = packed(run, tmp_path)
    assert top == f"evidence-{run.name}"
    for name in ("check.json", "images.json", "packages.txt", "docker-version.txt", "docker-info.json", "report.md"):
        assert name in texts
    assert json.loads(texts["report.json"])["run"]["id"] == run.name
    assert texts["run/blocks.jsonl"] == gpu_evidence.without_names((run / "blocks.jsonl").read_text())
    assert len(texts["run/blocks.jsonl"].splitlines()) == len((run / "blocks.jsonl").read_text().splitlines()) > 0
    assert any(name.startswith("run/steps/") for name in texts)
    assert "exit status 0" in texts["bench-version.log"]
    assert "numpy==" in texts["packages.txt"]
    assert texts["nvidia-smi.txt"]  # its answer, or that it is absent


def test_large_raw_samples_stay_at_home(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_evidence, "STEPS_LIMIT_BYTES", 10)
    _, texts = packed(run, tmp_path)
    assert not any(name.startswith("run/steps/") for name in texts)
    assert "run/run.json" in texts


def test_no_serial_number_and_no_host_name_is_kept(tmp_path: Path) -> None:
    script = "print('    Serial Number         : 1234'); print('    Product Name : H100')"
    gpu_evidence.keep(tmp_path / "smi.txt", sys.executable, "-c", script)
    text = (tmp_path / "smi.txt").read_text()
    assert "1234" not in text
    assert "Product Name : H100" in text
    assert "Name" not in gpu_evidence.DOCKER_FACTS


def test_no_host_name_and_no_home_folder_of_the_run_is_kept(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    place = f"{Path.home()}/models on {socket.gethostname()}"
    facts = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(facts | {"notes": [f"torch from {place}"]}))
    (copy / "logs" / "more.log").write_text(f"warning: {place} is slow\n")
    _, texts = packed(copy, tmp_path)
    assert texts["run/logs/more.log"] == "warning: ~/models on HOST is slow\n"
    assert json.loads(texts["run/run.json"])["notes"] == ["torch from ~/models on HOST"]
    assert not [name for name, text in texts.items() if f"{Path.home()}/" in text]


def test_more_than_one_matrix_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "a", "b"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_on_a_replay_it_refuses_in_one_sentence_and_makes_nothing(nvml_stub: Path, tmp_path: Path) -> None:
    environment = {"PATH": "", "LD_LIBRARY_PATH": str(nvml_stub), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gpu: no NVIDIA GPU answers on this machine (it is a replayed trace); run this where nvidia-smi works"
    ]
    assert list(tmp_path.iterdir()) == []
