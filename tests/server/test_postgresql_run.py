"""A run whose store is a PostgreSQL database, by real processes that die in the middle of it."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from simulations.chaos.playing import play, tiny_experiment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_over_postgresql_goes_on_after_the_server_was_killed(tmp_path: Path, postgresql: str) -> None:
    lines: list[str] = []
    engine = sa.create_engine(postgresql, poolclass=sa.NullPool)
    kinds = ["ServerApp", "server up"]
    report = play(
        tiny_experiment(tmp_path / "records", ["hospital"]),
        tmp_path / "deployed",
        kinds,
        lines.append,
        most_runs=3,
        store_url=postgresql,
    )
    assert report.faults == [], "\n".join(lines)
    assert {one.kind for one in report.happened} == {*kinds}, "\n".join(lines)
    assert not (tmp_path / "deployed" / "coordinator" / "state" / "collegium.db").exists()
    assert len(sa.inspect(engine).get_table_names()) > 5
