"""A small machine, and a process on it."""

import pytest

from pagemap_df.sim import Machine, Process


@pytest.fixture
def machine() -> Machine:
    return Machine("64M", rng=7)


@pytest.fixture
def task(machine: Machine) -> Process:
    return machine.spawn("task")
