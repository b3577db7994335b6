"""A small site over the tiny BERT."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client.institution import Data, Institution, Runtime
from client.opening import build_site
from client.policy import Policy
from client.preflight import Kept
from client.site import Site
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.nodekeys import node_key

MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
) -> MakeSite:
    """Makes a site that holds the named tasks under a policy; keyword tables change the federation."""

    def make(*tasks: str, name: str = "hospital", policy: Policy | None = None, **tables: object) -> Site:
        federation = tiny_federation(**tables)
        data = {
            task: Data(
                train=write_records(tmp_path / name / f"{task}.train.jsonl", task, slice(0, None, 2)),
                test=write_records(tmp_path / name / f"{task}.test.jsonl", task, slice(1, None, 2)),
            )
            for task in tasks
        }
        runtime = Runtime(state=tmp_path / name / "state")
        institution = Institution(name=name, data=data, policy=policy or Policy(), runtime=runtime)
        return build_site(institution, federation, build_model(federation), Kept(node_key=node_key(name)))

    return make
