from pathlib import Path

import httpx
import pytest

from client.institution import Data, Institution, Runtime, Watching
from client.watching import door
from client.watching.door import TOKEN, watched
from client.watching.metrics import Link
from shared.errors import ConnectionFailedError
from shared.watching.metrics import Process
from simulations.demo import free_ports


@pytest.fixture
def site(tmp_path: Path) -> Institution:
    (tmp_path / "state").mkdir()
    return Institution(
        name="hospital",
        data={"entities": Data(train=tmp_path / "x.jsonl")},
        runtime=Runtime(state=tmp_path / "state"),
        watching=Watching(port=free_ports(1)[0]),
    )


def test_metrics_are_told_to_who_has_the_token(site: Institution) -> None:
    url = f"http://127.0.0.1:{site.watching.port}/metrics"
    with watched(site, Link()), httpx.Client(trust_env=False) as client:
        token = (site.runtime.state / TOKEN).read_text().strip()
        assert client.get(url).status_code == client.get(url, headers={"authorization": "Bearer x"}).status_code == 401
        answer = client.get(url, headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, "collegium_site_connected 0.0" in answer.text) == (200, True)
        assert client.get(url + "x", headers={"authorization": f"Bearer {token}"}).status_code == 404
        assert client.post(url, headers={"authorization": f"Bearer {token}"}).status_code == 501
        with pytest.raises(ConnectionFailedError, match=r"watching\.port"), watched(site, Link()):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_without_a_port_there_is_no_door(site: Institution) -> None:
    with watched(site.model_copy(update={"watching": Watching()}), Link()):
        assert not (site.runtime.state / TOKEN).exists()


def test_health_is_serving_while_a_round_could_run(site: Institution, monkeypatch: pytest.MonkeyPatch) -> None:
    running = {"supernode": Process(1, 10.0), "executor": Process(1, 10.0)}
    monkeypatch.setattr(door, "processes", lambda daemon: running)
    link, url = Link(), f"http://127.0.0.1:{site.watching.port}/health"
    with watched(site, link), httpx.Client(trust_env=False) as client:
        assert client.get(url).status_code == 503
        link.connected_since = 20.0
        assert client.get(url).status_code == 503
        link.ready_since = 20.0
        assert (client.get(url).status_code, client.get(url).json()) == (200, {"status": "SERVING"})
        del running["supernode"]
        assert (client.get(url).status_code, client.get(f"{url}/live").status_code) == (503, 200)
