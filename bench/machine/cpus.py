"""Which processors the arms of a run get, and which the harness: what the kernel shows of them in, a placement out.

Sources: Linux Documentation/admin-guide/cputopology.rst and kernel-parameters.txt (isolcpus=: nobody balances tasks
there), ABI/testing/sysfs-devices-system-cpu (cpu_capacity, cpuinfo_max_freq, isolated, online), ABI/stable/
sysfs-devices-node; tools/perf/Documentation/intel-hybrid.txt (cpu_core, cpu_atom); proc_stat(5).
"""

from __future__ import annotations

import operator
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import InputError
from bench.machine.describe import cpu_numbers, read_line, read_text

LOOK_S = 1.0
CALM_SHARE = 0.05  # of one processor: what an idle machine does too, and a second of 10 ms ticks hardly tells
SAME_KIND = 0.9  # of the largest clock or capacity: the favoured cores of a kind differ by 5 %, kinds by 20 % or more
_TYPES = ("cpu_core", "cpu_atom", "cpu_lowpower")  # of a hybrid processor, the fastest first
_IDLE, _IOWAIT = 3, 4  # places in a line of /proc/stat


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A processor as the kernel counts them, which is one thread of a core.

    core  the numbers of all threads of its core, its own too; alone where the kernel does not say
    node  of memory; 0 where the kernel shows none
    kind  of its core: equal for equal ones, less for faster ones
    """

    number: int
    core: frozenset[int]
    node: int = 0
    kind: tuple[int, ...] = ()
    isolated: bool = False


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The processors that may be used, by number; `known`: the kernel shows of each which core it is part of."""

    cpus: Mapping[int, Cpu]
    known: bool


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Who runs where.

    arms     by their number of threads: as many processors, the fewer within the more
    control  those of the harness and its sampler
    idle     those that are used by neither: other threads of the arms' cores, and isolated ones
    why      in one sentence, without its full stop
    """

    arms: Mapping[int, frozenset[int]]
    control: frozenset[int]
    idle: frozenset[int]
    topology: Literal["known", "unknown"]
    why: str

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        return {
            "arms": {str(count): sorted(cpus) for count, cpus in self.arms.items()},
            "control": sorted(self.control),
            "idle": sorted(self.idle),
            "topology": self.topology,
            "why": self.why,
        }


def choose(
    threads: Iterable[int], *, look_s: float = LOOK_S, root: Path = Path("/"), usable: Collection[int] | None = None
) -> Placement:
    """Where arms with these numbers of threads run now, by what every processor did for `look_s`.

    root    where proc and sys are found; another folder in tests
    usable  those that this process may use; None: its affinity, which a cpuset narrows too
    raises  InputError: fewer may be used than an arm has threads; before it looks
    """
    counts = sorted(set(threads))
    topology = read(os.sched_getaffinity(0) if usable is None else usable, root=root)
    refuse_too_many(counts, len(topology.cpus))
    looks = look_s > 0 and len(topology.cpus) > 1
    return place(topology, counts, busy_shares(look_s, root=root) if looks else {})


def refuse_too_many(threads: Iterable[int], usable: int | None = None) -> None:
    """Raises InputError, where fewer processors may be used than an arm has threads."""
    most = len(os.sched_getaffinity(0)) if usable is None else usable
    wrong = [count for count in threads if not 1 <= count <= most]
    if wrong:
        raise InputError(f"threads: {max(wrong)} is not to be had here; choose from 1 to {most}, the usable CPUs")


@contextmanager
def confined(cpus: frozenset[int]) -> Iterator[None]:
    """Keep this process on these CPUs meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---------------------------------------------------------------- what the kernel shows


def read(usable: Iterable[int], *, root: Path = Path("/")) -> Topology:
    """Those of these processors that are online."""
    folder = root / "sys/devices/system/cpu"
    online = cpu_numbers(read_line(folder / "online"))
    own = frozenset(usable)
    numbers = sorted((own if online is None else online & own) or own)  # a container's view of `online` may be made up
    cores = {cpu: _core(folder / f"cpu{cpu}/topology") for cpu in numbers}
    isolated = cpu_numbers(read_line(folder / "isolated")) or frozenset()
    nodes, kinds = _nodes(root), _kinds(numbers, root)
    cpus = {
        cpu: Cpu(
            number=cpu,
            core=(cores[cpu] or frozenset()) | {cpu},
            node=nodes.get(cpu, 0),
            kind=kinds[cpu],
            isolated=cpu in isolated,
        )
        for cpu in numbers
    }
    return Topology(cpus=cpus, known=all(cores.values()))


def _core(folder: Path) -> frozenset[int] | None:
    """Newer kernels call it core_cpus_list, older ones thread_siblings_list."""
    found = (cpu_numbers(read_line(folder / name)) for name in ("core_cpus_list", "thread_siblings_list"))
    return next((cpus for cpus in found if cpus), None)


def _nodes(root: Path) -> dict[int, int]:
    """The node of every CPU."""
    return {
        cpu: int(folder.name.removeprefix("node"))
        for folder in (root / "sys/devices/system/node").glob("node[0-9]*")
        for cpu in cpu_numbers(read_line(folder / "cpulist")) or ()
    }


def _kinds(numbers: Sequence[int], root: Path) -> dict[int, tuple[int, ...]]:
    """By the type of a hybrid processor's core, by capacity, and by the largest clock: 0 is the fastest of each."""
    folder = root / "sys/devices/system/cpu"
    types = [cpu_numbers(read_line(root / f"sys/devices/{name}/cpus")) or frozenset() for name in _TYPES]
    of_type = {cpu: next((rank for rank, cpus in enumerate(types) if cpu in cpus), 0) for cpu in numbers}
    capacities = _ranks({cpu: read_line(folder / f"cpu{cpu}/cpu_capacity") for cpu in numbers})
    clocks = _ranks({cpu: read_line(folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq") for cpu in numbers})
    return {cpu: (of_type[cpu], capacities[cpu], clocks[cpu]) for cpu in numbers}


def _ranks(told: Mapping[int, str | None]) -> dict[int, int]:
    """Values that are nearly the same have one rank; one that is not told has the first."""
    values = {cpu: int(value) for cpu, value in told.items() if value}
    ranks: dict[int, int] = {}
    largest, rank = 0, -1
    for value in sorted(set(values.values()), reverse=True):
        if rank < 0 or value < SAME_KIND * largest:
            largest, rank = value, rank + 1
        ranks[value] = rank
    return {cpu: ranks[values[cpu]] if cpu in values else 0 for cpu in told}


def ticks(root: Path = Path("/")) -> dict[int, tuple[int, ...]]:
    """Of every CPU since boot: user, nice, system, idle, iowait, irq, softirq, steal."""
    lines = re.findall(r"^cpu(\d+) (.*)$", read_text(root / "proc/stat") or "", re.MULTILINE)
    return {int(cpu): tuple(map(int, words.split()[:8])) for cpu, words in lines}


def busy_shares(seconds: float, *, root: Path = Path("/")) -> dict[int, float]:
    """The share of these seconds in which every CPU ran anything, or the host kept it; it sleeps meanwhile."""
    before = ticks(root)
    time.sleep(seconds)
    spent = {cpu: tuple(map(operator.sub, late, before[cpu])) for cpu, late in ticks(root).items() if cpu in before}
    return {cpu: 1 - (t[_IDLE] + t[_IOWAIT]) / sum(t) for cpu, t in spent.items() if sum(t) > 0}


# ---------------------------------------------------------------- who gets which


def place(topology: Topology, threads: Iterable[int], shares: Mapping[int, float]) -> Placement:
    """The placement of arms with these numbers of threads (pure).

    The arm with the most threads decides, and those with fewer get the first of its processors, by these rules, the
    earlier before the later:

    1. one thread is put on an isolated processor, where there is one; several are kept off them, since the scheduler
       leaves all threads of a process on the one processor where they began;
    2. a core for each thread, all of one kind and on one node; if there are not so many, of one kind on several nodes;
       else of several kinds; else first threads of all cores and then second ones, again of one kind and on one node
       if they suffice;
    3. the fastest kind;
    4. the calmest: core by core, with what its other threads do; under CALM_SHARE all are calm;
    5. the highest number.

    The harness has every processor that is no arm's, on other cores and not isolated, as far as there is one.

    shares  of time that each was busy or taken by the host; {}: nobody has looked
    raises  InputError: fewer processors than threads
    """
    counts = sorted(set(threads))
    refuse_too_many(counts, len(topology.cpus))
    order = _order(topology, counts[-1], shares)
    arms = {count: frozenset(order[:count]) for count in counts}
    control = _control(topology, arms)
    return Placement(
        arms=arms,
        control=control,
        idle=frozenset(topology.cpus) - arms[counts[-1]] - control,
        topology="known" if topology.known else "unknown",
        why=_why(topology, arms[counts[-1]], control, looked=bool(shares)),
    )


@dataclass(frozen=True, kw_only=True)
class _Core:
    """The threads of a core that may be used, the best first; busy: how many processors' time all its threads took."""

    threads: tuple[int, ...]
    node: int
    kind: tuple[int, ...]
    busy: float


def _order(topology: Topology, count: int, shares: Mapping[int, float]) -> list[int]:
    """The processors of an arm with so many threads, the best first."""
    wanted = [cpu for cpu in topology.cpus.values() if cpu.isolated == (count == 1)]
    for pool in (wanted, list(topology.cpus.values())):
        cores = _cores(pool, shares)
        for shared in (False, True):
            for groups in (_groups(cores, "kind", "node"), _groups(cores, "kind"), _groups(cores)):
                fit = [one for one in groups if count <= (sum(len(c.threads) for c in one) if shared else len(one))]
                if fit:
                    return _spread(min(fit, key=lambda one: _rank(one, count)), count)
    raise AssertionError("refuse_too_many has counted them")


def _cores(cpus: Iterable[Cpu], shares: Mapping[int, float]) -> list[_Core]:
    threads: dict[frozenset[int], list[Cpu]] = defaultdict(list)
    for cpu in cpus:
        threads[cpu.core].append(cpu)
    return [
        _Core(
            threads=tuple(sorted((c.number for c in own), key=lambda n: (_calmed(shares.get(n, 0.0)), -n))),
            node=own[0].node,
            kind=own[0].kind,
            busy=_calmed(sum(shares.get(number, 0.0) for number in core)),
        )
        for core, own in threads.items()
    ]


def _calmed(share: float) -> float:
    return 0.0 if share <= CALM_SHARE else share


def _groups(cores: Sequence[_Core], *alike: str) -> list[list[_Core]]:
    """The cores with these things alike, each group in the order in which its cores are taken: node after node."""
    found: dict[tuple[Any, ...], list[_Core]] = defaultdict(list)
    for core in cores:
        found[tuple(getattr(core, name) for name in alike)].append(core)
    groups = []
    for group in found.values():
        size = Counter(core.node for core in group)
        groups.append(sorted(group, key=lambda c: (c.kind, -size[c.node], -c.node, c.busy, -max(c.threads))))
    return groups


def _rank(group: Sequence[_Core], count: int) -> tuple[Any, ...]:
    """Of a group from which so many threads are taken: the least is the best."""
    taken = group[:count]
    numbers = sorted(-number for number in _spread(group, count))
    return max(core.kind for core in taken), sum(core.busy for core in taken), numbers


def _spread(cores: Sequence[_Core], count: int) -> list[int]:
    """The first threads of all cores, then the second ones."""
    most = max(len(core.threads) for core in cores)
    return [core.threads[turn] for turn in range(most) for core in cores if turn < len(core.threads)][:count]


def _control(topology: Topology, arms: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """Those that the fewest arms use; of these, those on whose cores the fewest run; of these, those not isolated."""
    cores = [frozenset().union(*(topology.cpus[cpu].core for cpu in own)) for own in arms.values()]

    def nearness(cpu: Cpu) -> tuple[int, int, bool]:
        used = sum(cpu.number in own for own in arms.values())
        return used, sum(cpu.number in core for core in cores), cpu.isolated

    least = min(map(nearness, topology.cpus.values()))
    return frozenset(cpu.number for cpu in topology.cpus.values() if nearness(cpu) == least)


def _why(topology: Topology, arms: frozenset[int], control: frozenset[int], *, looked: bool) -> str:
    """In one sentence; what this machine leaves no choice in is left out."""
    own = [topology.cpus[cpu] for cpu in arms]
    cores = frozenset().union(*(cpu.core for cpu in own))
    words = "a core for each thread of an arm" if len({cpu.core for cpu in own}) == len(own) else (
        "more threads than cores, so that some share one")  # fmt: skip
    if len({cpu.kind for cpu in topology.cpus.values()}) > 1:
        words += f", {_kind_in_words(topology, own)}"
    if len({cpu.node for cpu in topology.cpus.values()}) > 1:
        words += ", on one node" if len({cpu.node for cpu in own}) == 1 else ", on several nodes"
    if any(cpu.isolated for cpu in own):
        words += ", isolated"
    words += "; of equal ones the calmest, then the last" if looked else "; of equal ones the last"
    apart = "on other cores" if not control & cores else "beside them on the same cores"
    words += f"; the harness {'on their CPUs too, since no other is left' if control & arms else apart}"
    return words if topology.known else f"{words}; the kernel shows no topology, so that each CPU counts as a core"


def _kind_in_words(topology: Topology, own: Sequence[Cpu]) -> str:
    kinds = {cpu.kind for cpu in own}
    if len(kinds) > 1:
        return "of several kinds"
    fastest = min(cpu.kind for cpu in topology.cpus.values())
    return "of the fastest kind" if kinds == {fastest} else "of the fastest kind that has so many"
