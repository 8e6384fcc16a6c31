"""Every gate from literal facts: what spoils a block, what just does not, and what was not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench import records
from bench.measure import gates
from bench.measure.gates import ArmFacts, Facts

ARM = ArmFacts(
    cpus=(1,),
    slice_s=2.0,
    slice_cpu_s=1.97,
    cpu_s=2.0,
    involuntary_switches=20,
    voluntary_switches=0,
    compilations=0,
    idle_s=2.0,
    idle_cpu_s=0.0,
    step_flops=10**9,
    flops_per_s=50e9,
    peak_flops_per_s=400e9,
    throttled=0,
    overheated=0,
    busy_s=4.0,
    others_s=0.1,
    steal_s=0.1,
    waited_s=0.02,
    pressure_cpu_s=0.02,
    pressure_memory_s=0.0,
    pressure_io_s=0.0,
)
QUIET = Facts(
    seconds=4.0,
    cpus=(1,),
    throttled=0,
    overheated=0,
    busy_s=4.0,
    others_s=0.1,
    steal_s=0.1,
    pressure_cpu_s=4.0,
    pressure_memory_s=0.0,
    pressure_io_s=4.0,
    gpu=None,
    foreign=None,
    arms={"tensorflow": ARM, "pytorch": ARM},
)
TOO_FAST = (
    "too fast: pytorch would have done 1,700 GFLOP/s where its device does 400 at most (limit 4 times that): "
    "steps were left out, or not waited for"
)
UNEQUAL = (
    "unequal waiting: pytorch had no processor for 15.0 % of its slices and tensorflow for 1.0 % (limit 5 points apart)"
)
WAITING = (
    "waiting: t1 had no processor for 55.0 % of its slices, and other processes used 52.5 % of a processor of its "
    "(limit 30 %)"
)
OF_CPUS = ("cpus", "overheated", "busy_s", "others_s", "steal_s")
GPU = {"thermal_s": 0.0, "power_cap_s": 4.0, "board_limit_s": 0.0, "reasons": 0x4}


def machine(**changes: Any) -> Facts:
    """A quiet block but for these facts of the machine, whose arms share their processors."""
    arms = changes.pop("arms", QUIET.arms)
    shared = {name: changes[name] for name in OF_CPUS if name in changes}
    return replace(QUIET, **changes, arms={name: replace(own, **shared) for name, own in arms.items()})


def threads(*, one: dict[str, Any], two: dict[str, Any]) -> Facts:
    """A quiet block of an arm of one thread and an arm of two, but for these facts of theirs."""
    arms = {"t1": replace(ARM, **one), "t2": replace(ARM, cpus=(0, 1), busy_s=8.0, slice_cpu_s=3.9, **two)}
    return replace(QUIET, cpus=(0, 1), busy_s=8.0, arms=arms)


def arm(**changes: Any) -> Facts:
    """A quiet block but for these facts of one arm, pytorch."""
    return machine(arms={"tensorflow": ARM, "pytorch": replace(ARM, **changes)})


def both(**changes: Any) -> dict[str, ArmFacts]:
    return dict.fromkeys(("tensorflow", "pytorch"), replace(ARM, **changes))


def test_a_quiet_block_is_not_spoiled_however_busy_the_rest_of_the_machine_is() -> None:
    assert QUIET.pressure_cpu_s == QUIET.seconds
    assert gates.reasons([QUIET]) == []


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (machine(throttled=3), "CPU quota: the harness's control group was held back 3 times (limit 0)"),
        (machine(overheated=1), "heat: CPU 1 slowed down once (limit 0)"),
        (machine(steal_s=0.82), "steal: the host kept 20.5 % of CPU 1 (limit 20 %)"),
        (
            machine(gpu=GPU | {"thermal_s": 0.1}),
            "heat: the GPU's clock was lowered for 2.5 % of the time (limit 1 %)",
        ),
        (
            machine(gpu=GPU | {"reasons": 0x44}),
            "heat: the GPU slowed itself down (clock event reasons 0x40, limit none)",
        ),
        (arm(throttled=12), "CPU quota: pytorch's control group was held back 12 times (limit 0)"),
        (arm(compilations=2), "compilation: pytorch compiled 2 times while it was timed (limit 0)"),
        (
            arm(idle_cpu_s=0.03),
            "busy while idle: pytorch used 1.5 % of a processor in the others' slices (limit 1 %)",
        ),
        (
            arm(flops_per_s=1700e9),
            TOO_FAST,
        ),
        (arm(pressure_memory_s=0.05), "pressure: for 1.2 % of the time pytorch waited for memory (limit 1 %)"),
        (arm(pressure_io_s=0.1), "pressure: for 2.5 % of the time pytorch waited for a disk (limit 1 %)"),
        (
            arm(involuntary_switches=1002),
            "switches: pytorch was pushed off by others 501 times a second of its slices (limit 500)",
        ),
        (
            arm(waited_s=0.3, slice_cpu_s=1.6),
            UNEQUAL,
        ),
    ],
    ids=lambda value: records.cause(value) if isinstance(value, str) else "",
)
def test_each_gate_trips_alone_and_says_value_limit_and_whose(facts: Facts, sentence: str) -> None:
    assert gates.reasons([facts]) == [sentence]


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (threads(one={"steal_s": 1.0}, two={"steal_s": 1.0}), "steal: the host kept 25.0 % of CPU 1 (limit 20 %)"),
        (threads(one={}, two={"overheated": 2}), "heat: CPUs 0, 1 slowed down 2 times (limit 0)"),
        (
            threads(one={"involuntary_switches": 1002}, two={"involuntary_switches": 9000}),
            "switches: t1 was pushed off by others 501 times a second of its slices (limit 500)",
        ),
        (
            threads(one={"waited_s": 1.1, "slice_cpu_s": 0.8, "others_s": 2.1}, two={"waited_s": 1.1, "others_s": 0.4}),
            WAITING,
        ),
        (
            threads(one={"flops_per_s": 1700e9}, two={"flops_per_s": 3000e9, "peak_flops_per_s": 800e9}),
            TOO_FAST.replace("pytorch", "t1"),
        ),
    ],
    ids=lambda value: records.cause(value) if isinstance(value, str) else "",
)
def test_an_arm_is_judged_by_its_own_processors(facts: Facts, sentence: str) -> None:
    assert gates.reasons([facts]) == [sentence]


def test_waiting_of_an_arm_with_one_processor_is_not_compared_with_one_of_two() -> None:
    assert gates.reasons([threads(one={}, two={"waited_s": 1.9})]) == []


@pytest.mark.parametrize(
    "facts",
    [
        machine(steal_s=0.79),
        machine(gpu=GPU),
        machine(gpu=GPU | {"thermal_s": 0.03}),
        arm(idle_cpu_s=0.02),
        arm(flops_per_s=1590e9),
        arm(pressure_memory_s=0.03),
        arm(involuntary_switches=1000),
        arm(waited_s=0.11, slice_cpu_s=1.8),
        machine(pressure_io_s=4.0, pressure_cpu_s=4.0),
    ],
)
def test_what_stays_below_its_limit_spoils_nothing(facts: Facts) -> None:
    assert gates.reasons([facts]) == []


def test_waiting_that_all_arms_share_spoils_when_others_took_that_time() -> None:
    disturbed = machine(arms=both(waited_s=1.1, slice_cpu_s=0.8), others_s=2.1)
    assert gates.reasons([disturbed]) == [
        f"waiting: {name} had no processor for 55.0 % of its slices, and other processes used 52.5 % of a processor "
        "of its (limit 30 %)"
        for name in ("tensorflow", "pytorch")
    ]
    background = machine(arms=both(waited_s=0.5, slice_cpu_s=1.4), others_s=1.0)
    assert gates.reasons([background]) == []


def test_waiting_between_slices_and_standing_still_for_ones_own_reasons_spoil_nothing() -> None:
    between = both(waited_s=3.0)
    own_reasons = both(slice_cpu_s=0.2)
    assert gates.reasons([machine(arms=between, others_s=2.1)]) == []
    assert gates.reasons([machine(arms=own_reasons, others_s=2.1)]) == []
    assert gates.reasons([machine(arms={"tensorflow": ARM, "pytorch": own_reasons["pytorch"]})]) == []


def test_an_arms_own_threads_that_wait_for_each_other_spoil_nothing() -> None:
    own_threads = {"tensorflow": replace(ARM, waited_s=2.3, involuntary_switches=2000), "pytorch": ARM}
    assert gates.reasons([machine(cpus=(0, 1), arms=own_threads, others_s=0.2)]) == []


def test_threads_of_one_arm_that_push_each_other_off_one_processor_spoil_nothing() -> None:
    handed_over = both(involuntary_switches=4000, voluntary_switches=3800)
    assert gates.reasons([machine(arms=handed_over)]) == []
    pushed = both(involuntary_switches=4000, voluntary_switches=2900)
    assert {records.cause(reason) for reason in gates.reasons([machine(arms=pushed)])} == {"switches"}


def test_processors_that_the_arms_left_to_others_spoil_nothing() -> None:
    assert gates.reasons([machine(cpus=(0, 1), others_s=4.0)]) == []


def test_on_several_processors_waiting_beside_others_spoils() -> None:
    found = gates.reasons([machine(cpus=(0, 1), arms=both(waited_s=1.0), others_s=4.0)])
    assert {records.cause(reason) for reason in found} == {"waiting"}


def test_the_pressure_of_a_control_group_stands_in_where_threads_are_not_counted() -> None:
    grouped = machine(arms=both(waited_s=None, pressure_cpu_s=1.1, slice_cpu_s=0.8), others_s=2.1)
    assert {records.cause(reason) for reason in gates.reasons([grouped])} == {"waiting"}


def test_where_waiting_is_not_counted_others_on_the_one_processor_decide() -> None:
    uncounted = both(waited_s=None, pressure_cpu_s=None)
    found = gates.reasons([machine(arms=uncounted, others_s=2.1)])
    assert found[1] == (
        "waiting: while pytorch was measured, other processes used 52.5 % of a processor of its (limit 30 %)"
    )
    assert gates.reasons([machine(cpus=(0, 1), arms=uncounted, others_s=2.1)]) == []


def test_the_machines_memory_stands_in_where_an_arm_has_no_control_group() -> None:
    stalled = machine(arms=both(pressure_memory_s=None), pressure_memory_s=0.1)
    assert len(gates.reasons([stalled])) == 2
    assert gates.reasons([machine(pressure_memory_s=0.1)]) == []


def test_a_moment_is_no_share_of_a_short_block() -> None:
    short = {"slice_s": 0.03, "slice_cpu_s": 0.017, "idle_s": 0.03, "cpu_s": 0.03, "involuntary_switches": 1}
    moment = replace(ARM, **short, waited_s=0.012, idle_cpu_s=0.004)
    still = replace(ARM, **short, waited_s=0.0)
    facts = machine(seconds=0.08, others_s=0.02, steal_s=0.02, arms={"tensorflow": still, "pytorch": moment})
    assert gates.reasons([facts]) == []


def test_in_serial_arms_are_compared_over_their_stretches() -> None:
    alone = {"idle_s": None, "idle_cpu_s": None}
    stretches = [
        machine(arms={"tensorflow": replace(ARM, **alone)}),
        machine(arms={"pytorch": replace(ARM, **alone, waited_s=0.3, slice_cpu_s=1.6)}),
    ]
    (reason,) = gates.reasons(stretches)
    assert records.cause(reason) == "unequal waiting"


def test_what_was_not_measured_is_recorded_as_null_and_never_judged() -> None:
    unknown = dict.fromkeys(("throttled", "overheated", "busy_s", "others_s", "steal_s"))
    of_cpus = {name: None for name in OF_CPUS if name != "cpus"}
    nothing = of_cpus | dict.fromkeys(("idle_s", "idle_cpu_s", "step_flops", "flops_per_s", "throttled", "waited_s"))
    pressures = dict.fromkeys(("pressure_cpu_s", "pressure_memory_s", "pressure_io_s"))
    arms = dict.fromkeys(("tensorflow", "pytorch"), replace(ARM, **nothing, **pressures))
    facts = machine(**unknown, **pressures, arms=arms, nulls={"steal_s": "no such file"})
    assert gates.reasons([facts]) == []
    kept = json.loads(json.dumps(facts.to_json(), allow_nan=False))
    assert kept["steal_s"] is None
    assert kept["arms"]["pytorch"]["waited_s"] is None
    assert kept["nulls"] == {"steal_s": "no such file"}
