"""The processors' energy, from literal powercap trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.telemetry.rapl import Packages


def zone(root: Path, name: str, called: str, energy_uj: int, range_uj: int = 1000) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True)
    for file, value in (("name", called), ("max_energy_range_uj", range_uj), ("energy_uj", energy_uj)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_what_is_inside_them_is_not_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:1", "package-1", 20)
    zone(tmp_path, "intel-rapl:0:0", "dram", 7)
    zone(tmp_path, "intel-rapl:2", "psys", 500)
    packages = Packages(root=tmp_path)
    assert packages.readable
    assert packages.read() == 120
    assert packages.null is None
    packages.close()


def test_a_counter_that_begins_anew_goes_on(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 990)
    packages = Packages(root=tmp_path)
    assert packages.read() == 990
    for value, expected in ((15, 1015), (30, 1030), (3, 2003)):
        file.write_text(f"{value}\n")
        assert packages.read() == expected
    packages.close()


def test_no_powercap_is_no_energy_and_says_so(tmp_path: Path) -> None:
    packages = Packages(root=tmp_path)
    assert (packages.readable, packages.read()) == (False, None)
    assert packages.null == "this machine shows no energy counter of its processors (powercap)"


def test_one_package_that_cannot_be_read_is_no_energy_at_all(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:1", "package-1", 100).unlink()
    packages = Packages(root=tmp_path)
    assert (packages.readable, packages.read()) == (False, None)
    assert packages.null == "intel-rapl:1/energy_uj: No such file or directory"


def test_a_counter_that_fails_on_the_way_ends_it_with_the_reason(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    packages = Packages(root=tmp_path)
    file.write_text("no number\n")
    assert packages.read() is None
    assert not packages.readable
    assert packages.null is not None
    assert "invalid literal" in packages.null


@pytest.mark.parametrize("name", ["intel-rapl-mmio:0", "dtpm"])
def test_other_kinds_of_zones_are_left_alone(tmp_path: Path, name: str) -> None:
    zone(tmp_path, name, "package-0", 100)
    assert not Packages(root=tmp_path).readable
