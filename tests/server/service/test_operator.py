from collections.abc import Iterator

import pytest

from server.bundle import RUN_KEY, pointer_bundle
from server.enrolment.authority import create_authority
from server.enrolment.keys import fingerprint
from server.home import ServerHome
from server.service.operator import Node, OperatorClient, RunStatus
from shared.errors import ConfigError, ConnectionFailedError, EnrolmentError
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes


def new_key() -> bytes:
    return public_key_to_bytes(generate_key_pairs()[1])


@pytest.fixture
def client(served_home: ServerHome) -> Iterator[OperatorClient]:
    with OperatorClient(served_home) as operator:
        yield operator


def test_a_node_is_enrolled_listed_and_revoked(client: OperatorClient) -> None:
    key = new_key()
    node_id = client.register_node("hospital", key)
    assert [node for node in client.nodes() if node.node_id == node_id] == [
        Node(node_id=node_id, name="hospital", status="registered", fingerprint=fingerprint(key), last_seen=None)
    ]
    client.unregister_node(node_id)
    assert all(node.node_id != node_id for node in client.nodes())


def test_a_name_and_a_key_are_enrolled_once(client: OperatorClient) -> None:
    key = new_key()
    node_id = client.register_node("law firm", key)
    with pytest.raises(EnrolmentError, match="'law firm' is, with key SHA256:"):
        client.register_node("law firm", new_key())
    with pytest.raises(EnrolmentError, match="enrolled under another name or was revoked"):
        client.register_node("bank", key)
    client.unregister_node(node_id)
    with pytest.raises(EnrolmentError, match="was revoked"):
        client.register_node("law firm", key)
    client.unregister_node(client.register_node("law firm", new_key()))


def test_what_is_no_key_and_no_node_is_refused(client: OperatorClient) -> None:
    with pytest.raises(EnrolmentError, match="not an elliptic-curve key"):
        client.register_node("nobody", b"no key")
    with pytest.raises(EnrolmentError, match="no such node"):
        client.unregister_node(12345)


def test_a_run_is_started_and_stopped(client: OperatorClient) -> None:
    run_id = client.start_run(pointer_bundle(), {RUN_KEY: "demo-1"})
    status = client.run_status(run_id)
    assert status == RunStatus(status="pending", sub_status="", details="")
    assert not status.finished
    client.stop_run(run_id)
    stopped = client.run_status(run_id)
    assert (stopped.status, stopped.sub_status) == ("finished", "stopped")
    assert stopped.finished
    assert not stopped.completed
    with pytest.raises(ConfigError, match="finished already"):
        client.stop_run(run_id)


def test_a_wrong_run_is_refused(client: OperatorClient) -> None:
    with pytest.raises(ConfigError, match="keys that the bundle declares"):
        client.start_run(pointer_bundle(), {"colour": "red"})
    with pytest.raises(ConfigError, match="knows no such run"):
        client.run_status(999)
    with pytest.raises(ConfigError, match="knows no such run"):
        client.stop_run(999)
    with pytest.raises(ConfigError, match="knows no such run"):
        list(client.run_log(999))
    with pytest.raises((ConfigError, ConnectionFailedError), match="start a run"):
        client.start_run(b"no zip", {})
    with pytest.raises(ConfigError, match="too large"):
        client.start_run(b"x" * 11_000_000, {})


def test_a_server_that_is_not_up(home: ServerHome) -> None:
    with (
        OperatorClient(home) as client,
        pytest.raises(ConnectionFailedError, match=f"collegium server up {home.root}") as caught,
    ):
        client.nodes()
    assert home.operator_token not in str(caught.value)


def test_a_wrong_token_is_refused_and_not_printed(served_home: ServerHome, home: ServerHome) -> None:
    for name in ("server.toml", "public/ca.crt"):
        (home.root / name).write_bytes((served_home.root / name).read_bytes())
    with OperatorClient(home) as client, pytest.raises(ConnectionFailedError, match="accept the token") as caught:
        client.nodes()
    assert home.operator_token not in str(caught.value)


def test_another_server_on_the_port_is_not_given_the_token(served_home: ServerHome, home: ServerHome) -> None:
    home.settings_file.write_bytes(served_home.settings_file.read_bytes())
    home.ca_certificate.write_bytes(create_authority().certificate)
    with OperatorClient(home) as client, pytest.raises(ConnectionFailedError, match="does not prove itself"):
        client.nodes()


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff"])
def test_a_damaged_certificate_is_named(home: ServerHome, content: bytes) -> None:
    home.ca_certificate.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca\.crt"):
        OperatorClient(home)
    home.ca_certificate.unlink()
    with pytest.raises(ConfigError, match=r"ca\.crt"):
        OperatorClient(home)


def test_an_empty_token_is_named(home: ServerHome) -> None:
    home.operator_token_file.write_text("\n")
    with pytest.raises(ConfigError, match=r"operator\.token"):
        OperatorClient(home)
