"""A real worker process, asked through the harness's own Group; the reference needs nothing beyond NumPy.

Faults are written into a copy of the workloads' package: what the harness says about them is what a user reads.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.errors import WorkerFailed
from bench.launch import group as groups
from bench.launch.group import LOG_LIMIT_BYTES, Group
from bench.launch.local import LocalChannel, start_process
from bench.measure import lockstep
from workloads.contract import (
    HEARTBEAT,
    MESSAGE_LIMIT_BYTES,
    SILENCE_LIMIT_S,
    Answer,
    Cell,
    Named,
    Request,
    unpack,
)
from workloads.linear_regression import spec

REPOSITORY = Path(__file__).resolve().parents[2]
CELL = Cell(
    workload=Named.of("linear_regression", spec.parameters({"preset": "classic", "evaluate_steps": 5})),
    framework=Named("tensorflow"),
    batch_size=5,
    device="cpu",
)
TRAINING = "workloads/training/reference.py"
STEP = "        loss, gradients, moved = loss_and_gradients(xs[i % len(xs)], ys[i % len(ys)])\n"
# The descriptor that the worker keeps for the contract: the one pipe beside its standard streams.
PRIVATE = (
    "next(fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')"
    " and os.readlink(f'/proc/self/fd/{fd}').startswith('pipe:'))"
)

Begin = Callable[..., LocalChannel]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the package to break; a worker starts from it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "workloads", tmp_path / "root" / "workloads", ignore=ignored)
    return tmp_path / "root"


@pytest.fixture
def group() -> Iterator[Group]:
    with Group() as group:
        yield group


@pytest.fixture
def begin(root: Path, tmp_path: Path, group: Group) -> Begin:
    """Start a worker of `root` in the group; opened unless told otherwise."""

    def start(arm: str = "arm", *, opened: bool = True, **axes: Any) -> LocalChannel:
        channel = start_process(Path(sys.executable), root=root, cache=tmp_path, padding=0)
        group.add(arm, channel)
        if opened:
            open_(group, arm, **axes)
        return channel

    return start


def open_(group: Group, arm: str = "arm", *, limit_s: float = 60, cpus: tuple[int, ...] = (), **axes: Any) -> Any:
    cell = Cell.from_json({**CELL.to_json(), **axes})
    return group.ask(
        arm, "open", limit_s=limit_s, cell=cell.to_json(), framework="reference", seed=0, data=None, cpus=list(cpus)
    )


def sabotage(root: Path, code: str, edit: Callable[[Path, str, str], None]) -> None:
    """Put `code` into the training step of the reference."""
    edit(root / TRAINING, STEP, f"        import os, signal, sys, time; {code}\n{STEP}")


def failure(group: Group, verb: str, *, limit_s: float = 30, **args: Any) -> WorkerFailed:
    ask = functools.partial(open_, group) if verb == "open" else functools.partial(group.ask, "arm", verb, **args)
    with pytest.raises(WorkerFailed) as caught:
        ask(limit_s=limit_s)
    return caught.value


# Every verb answers what the design says


def test_what_a_worker_leaves_in_its_scratch_folder_goes_with_it(begin: Begin, group: Group, tmp_path: Path) -> None:
    channel = begin(opened=False)
    environment = Path(f"/proc/{channel.pid}/environ").read_bytes().split(b"\0")
    (scratch,) = (Path(entry[7:].decode()) for entry in environment if entry.startswith(b"TMPDIR="))
    assert scratch.parent == tmp_path
    (scratch / "generated.py").touch()
    group.drop("arm")
    assert not scratch.exists()


def test_open_says_what_was_built_and_how_long_it_took(begin: Begin, group: Group) -> None:
    begin(opened=False)
    cpu = min(os.sched_getaffinity(0))
    opened = open_(group, cpus=(cpu,))
    assert min(opened[name] for name in ("import_s", "build_s", "first_step_s", "open_s")) >= 0
    assert opened["versions"]["numpy"] == np.__version__
    assert opened["effective"] == {"cpus": [cpu], "uid": os.getuid()}
    assert opened["parameter_count"] == 2
    assert len(opened["inputs_sha256"]) == 64


def test_parity_traces_losses_gradients_and_weights_of_a_fresh_program(begin: Begin, group: Group) -> None:
    begin()
    group.ask("arm", "warm", limit_s=30, steps=20)  # must leave no mark on the trace
    first = group.ask("arm", "parity", limit_s=30, steps=4, precision="fp64")
    again = group.ask("arm", "parity", limit_s=30, steps=4, precision="fp64")
    assert first == again
    assert len(first["losses"]) == 4
    assert first["losses"][-1] < first["losses"][0]
    assert {name: unpack(array).shape for name, array in first["gradients"].items()} == {
        "linear/kernel": (1, 1),
        "linear/bias": (1,),
    }
    assert unpack(first["weights"]["linear/kernel"]).dtype == np.float64
    timed = group.ask("arm", "parity", limit_s=30, steps=4, precision="fp32")
    assert unpack(timed["weights"]["linear/bias"]).dtype == "f4"


def test_parity_of_an_inference_traces_outputs(begin: Begin, group: Group) -> None:
    begin(phase="infer")
    trace = group.ask("arm", "parity", limit_s=30, steps=3, precision="fp64")
    assert {name: unpack(array).shape for name, array in trace["outputs"].items()} == {
        f"batch {i}": (5, 1) for i in range(3)
    }
    assert "losses" not in trace


@pytest.mark.parametrize(("sync", "times"), [("step", 7), ("slice", 1)])
def test_measure_times_each_step_or_the_whole_slice_after_its_settling_steps(
    begin: Begin, group: Group, sync: str, times: int
) -> None:
    begin()
    assert len(group.ask("arm", "warm", limit_s=30, steps=3)["step_ns"]) == 3
    before = time.monotonic_ns()
    answer = group.ask("arm", "measure", limit_s=30, steps=7, settle=2, sync=sync)
    after = time.monotonic_ns()
    assert (len(answer["settle_ns"]), len(answer["step_ns"])) == (2, times)
    assert before < answer["start_ns"] < answer["end_ns"] < after, "CLOCK_MONOTONIC is shared"
    assert sum(answer["settle_ns"] + answer["step_ns"]) <= answer["end_ns"] - answer["start_ns"]
    assert answer["woke_cpu_ns"] + answer["cpu_ns"] <= answer["slept_cpu_ns"]


def test_an_arm_that_stands_still_burns_nothing_between_its_slices(begin: Begin, group: Group) -> None:
    begin()
    first = group.ask("arm", "measure", limit_s=30, steps=5, settle=0, sync="step")
    time.sleep(0.5)
    second = group.ask("arm", "measure", limit_s=30, steps=5, settle=0, sync="step")
    assert second["woke_cpu_ns"] - first["slept_cpu_ns"] < 0.05e9


def test_slices_go_on_with_the_next_batch_so_that_training_goes_on(begin: Begin, group: Group) -> None:
    begin()
    trace = group.ask("arm", "parity", limit_s=30, steps=50, precision="fp32")
    group.ask("arm", "measure", limit_s=30, steps=49, settle=0, sync="slice")  # after the one step of open
    evaluated = group.ask("arm", "evaluate", limit_s=30, steps=50)
    assert evaluated["final_loss"] == pytest.approx(trace["losses"][-1], rel=1e-6)


def test_soak_lasts_as_long_as_asked_and_evaluate_gives_the_predictions(begin: Begin, group: Group) -> None:
    begin()
    soaked = group.ask("arm", "soak", limit_s=30, seconds=0.2)
    assert soaked["steps"] > 0
    assert soaked["end_ns"] - soaked["start_ns"] >= 0.2e9
    evaluated = group.ask("arm", "evaluate", limit_s=30, steps=1000)
    assert [round(point["y"], 1) for point in evaluated["predictions"]] == [2, 4, 6, 8, 10]


def test_close_gives_the_peak_and_the_process_ends(begin: Begin, group: Group) -> None:
    channel = begin()
    closed = group.ask("arm", "close", limit_s=30)
    assert closed["max_rss_bytes"] > 10 * 2**20
    assert closed["device_peak_memory_bytes"] is None
    assert closed["cpu_s"] > 0
    assert channel.fate() == ("crashed", "ended with exit status 0")


def test_a_worker_sees_little_of_the_harness_s_environment(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must stay here")
    channel = begin()
    seen = Path(f"/proc/{channel.pid}/environ").read_text()
    assert "PYTHONSAFEPATH=1" in seen
    assert "must stay here" not in seen


# What is not of the contract is refused in one sentence


def test_an_unknown_verb_is_refused_and_the_worker_goes_on(begin: Begin, group: Group) -> None:
    begin(opened=False)
    assert "verb 'measure' is unknown, or came before open" in str(failure(group, "measure", steps=1))
    open_(group)
    assert "verb 'reboot' is unknown" in str(failure(group, "reboot"))
    assert "open was asked twice" in str(failure(group, "open"))
    assert group.ask("arm", "warm", limit_s=30, steps=1)["step_ns"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"schema":"bench.worker/9","id":1,"verb":"open","args":{}}\n', "schema 'bench.worker/9' is unknown"),
        (b"GET / HTTP/1.1\n", "not a JSON line"),
        (b'{"schema":"bench.worker/1","id":1}\n', "a request lacks or misspells a field"),
        (b"\xff\xfe\n", "not a JSON line"),
    ],
)
def test_a_question_that_is_not_of_the_contract_ends_the_worker_with_a_sentence(
    begin: Begin, group: Group, line: bytes, sentence: str
) -> None:
    channel = begin(opened=False)
    channel.send(line)
    error = failure(group, "open")
    assert error.kind == "contract"
    assert sentence in str(error)
    assert channel.fate() == ("crashed", "ended with exit status 1")


def test_an_unsupported_cell_is_an_answer_and_not_a_failure(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    edit(
        root / "workloads/runtime/reference.py",
        '    """Nothing to configure: it is never timed."""\n',
        '    from workloads.contract import Unsupported\n    raise Unsupported("no mode like that here")\n',
    )
    begin(opened=False)
    error = failure(group, "open")
    assert (error.kind, str(error)) == ("unsupported", "arm: no mode like that here")


def test_what_closing_takes_is_not_in_the_trial_s_last_figures(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    began = "    began, program, rule = time.monotonic()"
    edit(root / "workloads/tracing.py", began, f"    np.ones(2**26)  # of 512 MiB\n{began}")
    begin()
    group.ask("arm", "warm", limit_s=30, steps=5)
    assert group.ask("arm", "closing", limit_s=60, steps=3, most_s=0.0)["steps"] == 3
    assert group.ask("arm", "close", limit_s=30)["max_rss_bytes"] < 2**28


def test_chatter_on_stdout_cannot_corrupt_an_answer(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    sabotage(root, "print('{\"id\": 1}'); os.write(1, b'raw chatter\\n'); os.system('echo a child talks')", edit)
    begin()
    assert len(group.ask("arm", "warm", limit_s=30, steps=20)["step_ns"]) == 20
    assert group.ask("arm", "measure", limit_s=30, steps=5, settle=1, sync="slice")["step_ns"]
    group.ask("arm", "close", limit_s=30)
    for words in ('{"id": 1}', "raw chatter", "a child talks"):
        assert words in group.log("arm")


# Faults: each one is a failure of its kind, with the end of the log


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("os._exit(3)", "crashed", "ended with exit status 3 while asked to warm"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "crashed with signal 11 (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "oom", "was killed (signal 9: out of memory, or by hand)"),
        ("raise ValueError('a bad batch')", "failed", "ValueError: a bad batch"),
        ("raise MemoryError", "failed", "MemoryError"),
        ("time.sleep(600)", "hung", "gave no answer to warm in 1 s"),
        (f"os.write({PRIVATE}, b'not of the contract\\n')", "garbage", "not a JSON line: b'not of the contract'"),
        (f"os.write({PRIVATE}, b'\\xff\\n')", "garbage", "not a JSON line"),
        (f"os.close({PRIVATE}); os.close(1); os.close(2); time.sleep(600)", "crashed", "closed its output and went on"),
        (
            f"[os.write({PRIVATE}, b'x' * 2**20) for _ in range({MESSAGE_LIMIT_BYTES >> 20} + 2)]",
            "flooded",
            f"said over {MESSAGE_LIMIT_BYTES >> 20} MiB in one message",
        ),
    ],
    ids=["exit", "segfault", "kill", "raise", "memory", "hang", "garbage", "not-utf8", "closes-stdout", "flood"],
)
def test_a_fault_is_a_failure_of_its_kind_with_the_log_s_tail(
    begin: Begin, group: Group, root: Path, edit: Any, code: str, kind: str, words: str
) -> None:
    only_later = f"os.path.exists({str(root / 'now')!r}) and [print('last words', file=sys.stderr, flush=True)]"
    sabotage(root, f"{only_later}\n        if os.path.exists({str(root / 'now')!r}): {code}", edit)
    begin()
    group.ask("arm", "warm", limit_s=30, steps=1)
    (root / "now").touch()
    error = failure(group, "warm", limit_s=1 if kind == "hung" else 30, steps=1)
    assert error.kind == kind
    assert words in str(error)
    assert str(error).startswith("arm: ")
    assert "\n" not in str(error)
    assert "last words" in error.log
    if kind == "failed":
        assert "Traceback" in error.log


def test_an_answer_over_the_limit_is_an_error_and_the_worker_goes_on(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    edit(root / "workloads/contract.py", f"MESSAGE_LIMIT_BYTES = {512} * 2**20", "MESSAGE_LIMIT_BYTES = 2000")
    begin()
    error = failure(group, "warm", steps=1000)
    assert error.kind == "unsupported", "it is the size that was asked for, and no fault of the implementation"
    assert "are the most that is sent; take a smaller model or batch" in str(error)
    assert len(group.ask("arm", "warm", limit_s=30, steps=2)["step_ns"]) == 2


def test_an_answer_that_is_no_json_is_an_error_and_the_worker_goes_on(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    edit(root / "workloads/trial.py", "step_ns = self._steps(steps)\n", 'step_ns = [float("nan")] * steps\n')
    begin()
    error = failure(group, "warm", steps=3)
    assert error.kind == "failed"
    assert "an answer that is no JSON" in str(error)
    assert group.ask("arm", "close", limit_s=30)


def test_an_answer_of_many_megabytes_comes_whole_and_soon(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    edit(root / "workloads/trial.py", "step_ns = self._steps(steps)\n", 'step_ns = ["x" * 2**20] * steps\n')
    begin()
    assert len(group.ask("arm", "warm", limit_s=60, steps=200)["step_ns"]) == 200


def test_a_flood_on_stderr_is_cut_and_harms_nothing(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    sabotage(root, "sys.stderr.write('y' * 2**20)", edit)
    begin()
    assert len(group.ask("arm", "warm", limit_s=60, steps=20)["step_ns"]) == 20
    assert len(group.log("arm")) <= LOG_LIMIT_BYTES


def test_an_output_that_is_not_finite_is_seen_after_the_slice(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    edit(root / TRAINING, "        return loss\n", "        return np.float64('nan')\n")
    begin()
    error = failure(group, "measure", steps=3, settle=0, sync="slice")
    assert "is not finite" in str(error)


def test_an_inference_that_skips_its_work_once_it_is_timed_is_seen(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    code = f"outputs(xs[i % len(xs)]) * (0 if __import__('os').path.exists({str(root / 'now')!r}) else 1)"
    edit(root / TRAINING, "outputs(xs[i % len(xs)])", code)
    begin(phase="infer")
    group.ask("arm", "warm", limit_s=30, steps=2)
    group.ask("arm", "measure", limit_s=30, steps=3, settle=0, sync="step")
    (root / "now").touch()
    assert "differs from the one before timing" in str(failure(group, "measure", steps=3, settle=0, sync="step"))


def test_one_arm_s_crash_leaves_the_other_s_answer(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    sabotage(root, f"os.path.exists({str(root)!r} + f'/{{os.getpid()}}') and os._exit(3)", edit)
    doomed = begin("doomed")
    begin("healthy")
    (root / str(doomed.pid)).touch()
    answers = group.ask_all({"doomed": {"steps": 2}, "healthy": {"steps": 2}}, "warm", limit_s=30)
    assert isinstance(answers["doomed"], WorkerFailed)
    assert len(answers["healthy"]["step_ns"]) == 2  # type: ignore[index]
    assert isinstance(group.ask_all({"doomed": {"steps": 2}}, "warm", limit_s=30)["doomed"], WorkerFailed)
    assert len(group.ask("healthy", "warm", limit_s=30, steps=3)["step_ns"]) == 3


# A worker outlives nobody


@pytest.mark.parametrize("code", ["time.sleep(600)", "exec('while True: pass')"], ids=["sleeping", "computing"])
def test_a_worker_whose_stdin_closes_ends_within_two_seconds_even_inside_a_step(
    begin: Begin, root: Path, edit: Any, code: str
) -> None:
    sabotage(root, f"os.path.exists({str(root / 'now')!r}) and {code}", edit)
    channel = begin()
    (root / "now").touch()
    channel.send(Request(id=99, verb="warm", args={"steps": 1}).encode())
    time.sleep(0.3)
    assert channel._process.poll() is None
    channel._stdin.close()
    assert channel._process.wait(timeout=2) == 0


def test_a_worker_that_hears_nothing_ends_and_one_that_hears_heartbeats_lives(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    edit(root / "workloads/contract.py", "SILENCE_LIMIT_S = 30.0", "SILENCE_LIMIT_S = 1.0")
    silent, heard = begin("silent"), begin("heard")
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        heard.send(HEARTBEAT.encode())
        time.sleep(0.2)
    assert silent._process.poll() == 0
    assert group.ask("heard", "warm", limit_s=30, steps=1)["step_ns"]


class Overheard:
    """A worker's real channel; what goes through it is put down in one list for all."""

    def __init__(self, channel: LocalChannel, events: list[str]) -> None:
        self._channel, self._events = channel, events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def send(self, data: bytes) -> None:
        self._events.append(Request.decode(data).verb)
        self._channel.send(data)

    def receive(self, fileno: int) -> tuple[bytes, bytes] | None:
        received = self._channel.receive(fileno)
        self._events.append("answer")
        return received


class Slices:
    """What lockstep.Stretch is told of slices, put down in that list too."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def begin_slice(self, arm: str) -> None:
        self._events.append("begin")

    def end_slice(self, arm: str, answer: Any, steps: int) -> None:
        self._events.append("end")


def test_no_heartbeat_falls_into_a_timed_slice_and_all_workers_hear_them_in_between(
    root: Path, tmp_path: Path, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(root, "time.sleep(0.01)", edit)
    monkeypatch.setattr(groups, "HEARTBEAT_S", 0.05)
    plan = SimpleNamespace(
        slices=SimpleNamespace(steps={"timed": 5, "idle": 1}, settle_steps=0), step_ns={"timed": 1e7, "idle": 1e7}
    )
    events: list[str] = []
    with Group() as group:
        for arm in ("timed", "idle"):
            channel = start_process(Path(sys.executable), root=root, cache=tmp_path, padding=0)
            group.add(arm, Overheard(channel, events))  # type: ignore[arg-type]
            open_(group, arm)
        events.clear()
        for sync in ("step", "slice") * 10:
            lockstep._slice(group, "timed", plan, sync, Slices(events))  # type: ignore[arg-type]
    told = " ".join(events)
    slices = re.findall("begin (.*?) end", told)
    assert len(slices) == 20
    assert all(one.startswith("measure answer") for one in slices), "each took longer than lies between two heartbeats"
    assert told.count("heartbeat heartbeat") >= 15


def test_idle_workers_outlive_a_slice_that_takes_longer_than_the_silence_they_bear(
    begin: Begin, group: Group, root: Path, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert groups.HEARTBEAT_S < groups.WAITING_HEARTBEAT_S <= SILENCE_LIMIT_S / 2
    edit(root / "workloads/contract.py", "SILENCE_LIMIT_S = 30.0", "SILENCE_LIMIT_S = 1.0")
    monkeypatch.setattr(groups, "HEARTBEAT_S", 0.15)
    monkeypatch.setattr(groups, "WAITING_HEARTBEAT_S", 0.5)
    sabotage(root, f"os.path.exists({str(root / 'now')!r}) and time.sleep(3)", edit)
    begin("slow")
    begin("idle")
    (root / "now").touch()
    assert group.ask("slow", "measure", limit_s=30, steps=1, settle=0, sync="step")["step_ns"]
    (root / "now").unlink()
    assert group.ask("idle", "measure", limit_s=30, steps=1, settle=0, sync="step")["step_ns"]


def test_removing_a_worker_takes_the_children_that_it_started_with_it(
    begin: Begin, group: Group, root: Path, edit: Any
) -> None:
    sabotage(root, "print('child', os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600'), flush=True)", edit)
    begin()
    group.ask("arm", "warm", limit_s=30, steps=1)
    group.ask_all({}, "warm", limit_s=0)
    children = [int(line.split()[1]) for line in group.log("arm").splitlines() if line.startswith("child ")]
    assert children
    assert all(_runs(child) for child in children)
    group.drop("arm")
    until = time.monotonic() + 2
    while any(_runs(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_runs(child) for child in children)


def test_the_group_removes_every_worker_when_its_block_ends_in_an_error(root: Path, tmp_path: Path) -> None:
    def measure() -> None:
        with Group() as group:
            channels.append(start_process(Path(sys.executable), root=root, cache=tmp_path, padding=0))
            group.add("arm", channels[0])
            raise KeyboardInterrupt

    channels: list[LocalChannel] = []
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert channels[0]._process.poll() is not None


def test_an_answer_to_another_question_is_garbage(begin: Begin, group: Group, root: Path, edit: Any) -> None:
    line = Answer(id=7777, result={}).encode()
    sabotage(root, f"os.path.exists({str(root / 'now')!r}) and os.write({PRIVATE}, {line!r})", edit)
    begin()
    (root / "now").touch()
    error = failure(group, "warm", steps=1)
    assert (error.kind, "answer 7777 where" in str(error)) == ("garbage", True)


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
