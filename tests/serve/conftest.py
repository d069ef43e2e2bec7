"""One toy server for all tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Client, Place, Server, serving


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty store."""
    return Place(tmp_path)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Server]]:
    """A toy release that serves everybody."""
    place = Place(tmp_path_factory.mktemp("served"))
    digest = place.release()
    place.point(digest, versions={digest: "3"})
    with serving(place) as server:
        yield place, server


@pytest.fixture
def client(shared: tuple[Place, Server]) -> Client:
    return shared[1].client()
