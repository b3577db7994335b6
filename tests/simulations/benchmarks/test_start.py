"""What starting costs: the coordinator's app stays small; seconds are bounded loosely, because machines are busy."""

from simulations.benchmarks.start import STARTS, start


def test_the_coordinators_app_starts_in_little_memory() -> None:
    found = start(STARTS["server.app"])
    assert 30 < found.megabytes < 120
    assert 0 < found.seconds < 5


def test_help_costs_next_to_nothing() -> None:
    found = start(STARTS["collegium --help"])
    assert 5 < found.megabytes < 50
    assert 0 < found.seconds < 2
