"""A small site over the tiny BERT."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.institution import Data, Institution, Runtime
from client.opening import build_site
from client.policy import Policy
from client.preflight import Kept
from client.site import Site
from server.home import ServerHome
from server.service import daemon as coordinator_daemon
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


Coordinating = Callable[[ServerHome], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def coordinating() -> Coordinating:
    """Has a coordinator's daemon serve a folder, all of its processes real, while a `with` block lasts."""

    @contextlib.contextmanager
    def serve(home: ServerHome) -> Iterator[None]:
        stop, up, said = threading.Event(), threading.Event(), list[str]()

        def say(text: str) -> None:
            said.append(text)
            if "server is up" in text:
                up.set()

        thread = threading.Thread(target=coordinator_daemon.serve, args=(home,), kwargs={"stop": stop, "announce": say})
        thread.start()
        try:
            assert up.wait(120), said
            yield
        finally:
            stop.set()
            thread.join(30)

    return serve
