"""An engine's client, the base, and a registry that stands in for the real ones."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from stand_in_registry import Registry

from bench.engine.client import engine
from bench.provision import base
from bench.provision.base import choose

if TYPE_CHECKING:
    import docker


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = engine()
    yield client
    client.close()


@pytest.fixture(scope="module")
def default_base(client: docker.DockerClient) -> base.Base:
    return choose(client, base=None, progress=print)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, client: docker.DockerClient) -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(base, "OFFICIAL", server.official)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    for image in client.images.list(server.official.rpartition(":")[0]):
        client.images.remove(str(image.id), force=True)


@pytest.fixture(autouse=True)
def collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """docker-py leaves sockets to the garbage collector: they go within the test that says so and left them."""
    yield
    if any("unclosed <socket" in str(mark.args) for mark in request.node.iter_markers("filterwarnings")):
        gc.collect()
