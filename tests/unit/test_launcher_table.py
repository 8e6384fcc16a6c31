"""A launcher is a row: each one's class is there and calls itself so, and an unknown name starts nothing."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from bench.errors import EnvironmentUnavailable, InputError
from bench.launch import Place
from bench.launch.provide import provide
from bench.matrix import launcher
from bench.matrix.model import MatrixFile


@pytest.mark.parametrize("name", launcher.LAUNCHERS)
def test_every_row_names_a_class_that_calls_itself_so(name: str) -> None:
    module, _, kind = launcher.LAUNCHERS[name].partition(":")
    assert getattr(importlib.import_module(module), kind).name == name


def test_a_matrix_may_name_every_one_and_no_other() -> None:
    told = json.dumps(MatrixFile.model_json_schema()["$defs"]["Axes"]["properties"]["launcher"])
    assert json.dumps([launcher.AUTO, *launcher.LAUNCHERS]) in told


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(run_id="x", cache=tmp_path, data=None, base=None)


def test_an_unknown_launcher_is_refused_and_never_docker(place: Place) -> None:
    with pytest.raises(InputError, match=r'^launcher "dokcer" is unknown; choose auto, docker, local, '):
        provide("dokcer", [], place, print)


def test_another_row_is_all_that_a_launcher_takes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(launcher.LAUNCHERS, "mine", "bench.launch.local:LocalLauncher")
    made, provisions = provide("mine", [], place, print)
    assert (made.name, provisions) == ("local", {})


def test_auto_says_why_it_is_not_the_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        @classmethod
        def at(cls, place: Place, *, gpu: bool = False) -> None:
            raise EnvironmentUnavailable("no engine answers")

    monkeypatch.setattr("bench.launch.docker.DockerLauncher", Nowhere)
    said: list[str] = []
    made, _ = provide(launcher.AUTO, [], place, said.append)
    assert made.name == "local"
    assert said == ["launcher: local, because no engine answers"]
