from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.places import on_postgres
from tests.postgres import PostgresCluster

# Timing is never asserted, and a busy machine makes none of these samples bad.
settings.register_profile("hivebus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hivebus")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """One server for all tests; each works in schemas of its own."""
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.peers)])
def each_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """The module's tests run once on files and once on Postgres."""
    if request.param == "sqlite":
        yield
        return
    with on_postgres(request.getfixturevalue("postgres").url):
        yield
