"""What slow counters and levels tell of a window: from staircases whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.telemetry.windows import Track, Unresolved

S = 1_000_000_000


def staircase(
    watts: float, *, every_s: float = 0.1, read_s: float = 0.02, seconds: float = 6.0, phase_s: float = 0.013
) -> Track:
    """An energy counter in J that moves every `every_s`, read every `read_s`."""
    t_s = np.arange(0, seconds, read_s) + phase_s
    return Track((t_s * S).astype("int64"), np.floor(t_s / every_s) * every_s * watts)


@pytest.mark.parametrize("phase_s", [0.0, 0.007, 0.013, 0.019])
@pytest.mark.parametrize("start_s", [1.0, 1.05, 1.234])
def test_the_power_of_a_staircase_is_known_within_its_stated_uncertainty(phase_s: float, start_s: float) -> None:
    found = staircase(300.0, phase_s=phase_s).power(int(start_s * S), int((start_s + 3) * S))
    assert 0.001 < found.uncertainty < 0.02
    assert found.watts == pytest.approx(300.0, rel=found.uncertainty)


def test_reading_seldom_is_less_certain_and_is_said_to_be() -> None:
    often, seldom = (staircase(300.0, read_s=read_s, phase_s=0.005).power(S, 4 * S) for read_s in (0.02, 0.1))
    assert seldom.uncertainty > 3 * often.uncertainty


@pytest.mark.parametrize("every_s", [0.1, 0.25, 0.5])
def test_an_idle_gpu_before_and_after_a_soak_does_not_pull_its_power_down(every_s: float) -> None:
    t_s = np.arange(0, 8, 0.02) + 0.007
    told_s = np.floor(t_s / every_s) * every_s
    start_s, end_s = 2.0 + every_s / 2, 5.0 + every_s / 2  # in the middle of a step of the counter
    track = Track((t_s * S).astype("int64"), 70.0 * told_s + 430.0 * np.clip(told_s - start_s, 0, 3.0))
    found = track.power(int(start_s * S), int(end_s * S))
    assert found.watts == pytest.approx(500.0, rel=found.uncertainty)
    assert found.uncertainty < 0.05


def test_a_load_that_is_not_steady_is_known_less_well() -> None:
    t_s = np.arange(0, 6, 0.02) + 0.007
    told_s = np.floor(t_s * 4) / 4
    rising = Track((t_s * S).astype("int64"), 50.0 * told_s**2)  # the power grows with time
    even = staircase(300.0, every_s=0.25, phase_s=0.007)
    window = (int(1.06 * S), int(3.9 * S))
    found = rising.power(*window)
    assert found.uncertainty > 1.1 * even.power(*window).uncertainty
    assert found.watts == pytest.approx(50.0 * (3.9**2 - 1.06**2) / (3.9 - 1.06), rel=found.uncertainty)


@pytest.mark.parametrize(
    ("track", "window_s", "words"),
    [
        (staircase(0.0), (1, 4), "did not move in 3.00 s"),
        (staircase(300.0, every_s=2.5), (1, 3), "moved once in 2.00 s"),
        (staircase(300.0), (1, 1.05), "did not move in 0.05 s"),
        (staircase(300.0, read_s=0.3), (1, 3), "known to 1[0-9] % only, over 10 %"),
        (staircase(300.0, seconds=2.0), (1, 4), "seen to move over 0.[89][0-9]* s of 3 s alone"),
        (staircase(300.0), (8, 9), "not read"),
    ],
)
def test_a_window_that_the_counter_cannot_resolve_has_no_energy(
    track: Track, window_s: tuple[float, float], words: str
) -> None:
    with pytest.raises(Unresolved, match=words):
        track.power(int(window_s[0] * S), int(window_s[1] * S))


def test_a_counter_that_went_back_tells_nothing() -> None:
    track = staircase(300.0)
    track.values[track.t_ns > 2 * S] -= 300.0
    with pytest.raises(Unresolved, match="went back"):
        track.power(S, 4 * S)
    assert track.power(3 * S, 5 * S).watts == pytest.approx(300.0, rel=0.02)


def test_a_level_leaves_out_what_is_an_average_over_the_time_before() -> None:
    t_s = np.arange(0, 4, 0.1)
    track = Track((t_s * S).astype("int64"), np.where(t_s < 1.95, 10.0, 90.0))  # a second late
    assert track.level(S, 4 * S) == 90.0
    with pytest.raises(Unresolved, match=r"0 readings after the first 1 s of 0\.90 s, of 3 that it takes"):
        track.level(S, int(1.9 * S))


def test_the_highest_and_the_first_are_of_the_window_alone() -> None:
    track = Track(np.arange(5) * S, np.array([9.0, 1.0, 5.0, 3.0, 8.0]))
    assert (track.highest(S, 3 * S), track.first(S, 3 * S)) == (5.0, 1.0)
    with pytest.raises(Unresolved, match="not read"):
        track.highest(10 * S, 11 * S)


def test_how_often_a_field_moves_is_seen_and_a_field_that_stands_still_is_not_guessed() -> None:
    assert staircase(300.0, every_s=0.25).refresh_s() == pytest.approx(0.25, abs=0.021)
    assert staircase(0.0).refresh_s() is None
    assert staircase(300.0, every_s=2.5).refresh_s() is None
