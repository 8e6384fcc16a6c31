"""`nox -s lock`, with the real uv and a package index of this machine's own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import relock
from small_wheels import digest, make_torch, make_wheel

from bench import frameworks
from bench.errors import EnvironmentUnavailable
from bench.provision import locks

Offer = Callable[..., Path]
# docker-py leaves a socket on which nobody answered to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.second]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Such sockets go within the test that left them."""
    yield
    gc.collect()


@pytest.fixture
def offer(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Put a wheel into the index, which is all that pip is configured with; no engine answers."""
    folder, address = served
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {address}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)

    def put(name: str, version: str) -> Path:
        project = folder / name.replace("_", "-")  # an index lists it under its normalised name
        wheel = make_wheel(project, name, version)
        links = [f'<a href="{one.name}#sha256={digest(one)}">{one.name}</a>' for one in project.glob("*.whl")]
        (project / "index.html").write_text("\n".join(links))
        return wheel

    return put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Recipes of both frameworks, of which TensorFlow's are to be locked."""
    folder = tmp_path / "recipes"
    for framework in frameworks.every():
        (folder / framework).mkdir(parents=True)
        for flavour, name in frameworks.every()[framework].packages.items():
            lock = f"{name}==1.0 \\\n    --hash=sha256:{'1' * 64}\nnumpy==1.0 \\\n    --hash=sha256:{'2' * 64}\n"
            (folder / framework / f"requirements-{flavour}.lock").write_text(lock)
            (folder / framework / f"requirements-{flavour}.in").write_text(f"{name}==1.0\nnumpy\n")
    return folder


def made(root: Path, *, upgrade: bool = False) -> list[str]:
    return relock.relock(
        frameworks=["tensorflow"], flavours=["cpu"], upgrade=upgrade, progress=lambda _: None, folder=root
    )


def test_a_lock_is_made_from_the_private_index_with_every_hash_and_no_address(offer: Offer, root: Path) -> None:
    offer("tensorflow_cpu", "1.0")
    offer("numpy", "1.0")
    (root / "tensorflow" / "requirements-cpu.lock").unlink()
    assert made(root) == ["tensorflow: requirements-cpu.lock changed"]
    text = (root / "tensorflow" / "requirements-cpu.lock").read_text()
    lock = locks.parse(text, framework="tensorflow", flavour="cpu", committed=True)
    assert {pin.name: pin.version for pin in lock.pins} == {"tensorflow-cpu": "1.0", "numpy": "1.0"}
    assert "http" not in text
    assert str(root) not in text
    assert made(root) == []


def test_pins_stay_until_an_upgrade_is_asked_for_and_one_side_alone_gets_no_other_numpy(
    offer: Offer, root: Path
) -> None:
    offer("tensorflow_cpu", "1.0")
    offer("numpy", "1.0")
    made(root)
    offer("numpy", "1.1")
    assert made(root) == []
    before = (root / "tensorflow" / "requirements-cpu.lock").read_text()
    with pytest.raises(EnvironmentUnavailable, match=r"different NumPys: 1\.1 in tensorflow \(cpu\), 1\.0 in"):
        made(root, upgrade=True)
    assert (root / "tensorflow" / "requirements-cpu.lock").read_text() == before


def test_what_cannot_be_resolved_is_one_sentence(offer: Offer, root: Path) -> None:
    offer("numpy", "1.0")
    with pytest.raises(EnvironmentUnavailable, match=r"tensorflow \(cpu\) cannot be resolved") as refused:
        made(root)
    assert "\n" not in str(refused.value)


def test_a_cpu_wheel_of_torch_in_pips_own_folder_is_locked_with_its_hash(
    offer: Offer, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyTorch's own index does not answer: this one says it has nothing of the kind."""
    offer("numpy", "1.0")
    wheel = make_torch(tmp_path / "links", "1.0+cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setattr(relock, "TORCH_INDEX", "--find-links=/nowhere")
    (root / "pytorch" / "wheels.sha256").write_text(f"{'0' * 64}  torch-0.9+cpu-cp311-cp311-linux_x86_64.whl\n")
    changed = relock.relock(
        frameworks=["pytorch"], flavours=["cpu"], upgrade=False, progress=lambda _: None, folder=root
    )
    assert changed == ["pytorch: requirements-cpu.lock changed", "pytorch: wheels.sha256 changed"]
    assert (root / "pytorch" / "wheels.sha256").read_text() == f"{digest(wheel)}  {wheel.name}\n"
    wheel.write_bytes(wheel.read_bytes() + b"\0")  # a file of the same name with another content
    with pytest.raises(EnvironmentUnavailable, match=r"torch-1\.0\+cpu.* it was replaced"):
        relock.relock(frameworks=["pytorch"], flavours=["cpu"], upgrade=False, progress=lambda _: None, folder=root)
