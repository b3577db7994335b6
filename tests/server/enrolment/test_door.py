"""Joining, getting a new key and leaving, over gRPC and TLS at a real door before a real SuperLink."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.enrolment import channel, joining, rotating
from client.enrolment.joining import join
from client.enrolment.leaving import leave
from client.enrolment.rotating import rotate_key
from client.enrolment.succession import earlier_keys
from client.keys import generate_node_key, read_public_key
from client.leaving import gate, outbox
from client.leaving.receipts import Receipts
from server.enrolment.certificates import begin_authority, finish_authority, renew
from server.enrolment.door import open_door
from server.enrolment.invitations import Invitations
from server.enrolment.keys import as_pem
from server.enrolment.members import invite, revoke
from server.enrolment.reception import Reception
from server.enrolment.tries import Tries
from server.home import read_settings
from server.service.operator import OperatorClient
from shared.errors import CollegiumError, ConnectionFailedError, EnrolmentError
from shared.federation import load_federation
from shared.flower.messages import ActivateNodeRequest, PullMessagesRequest
from shared.nodekeys import fingerprint, line_of
from shared.process.waiting import HEADER
from shared.protocol import Refusal
from simulations.attacks.coordinator import Institution, forked, trusting
from simulations.attacks.enrolment import Coordinator, Key, door, welcoming
from simulations.demo import free_ports


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with welcoming(tmp_path_factory.mktemp("welcoming")) as running:
        yield running


@pytest.fixture
def invited(coordinator: Coordinator, tmp_path: Path) -> Iterator[Path]:
    """An invitation for the hospital, which is let go in the end."""
    coordinator.invite("hospital", tmp_path / "hospital.invitation")
    yield tmp_path / "hospital.invitation"
    with OperatorClient(coordinator.home) as operator:
        for node in operator.nodes():
            if node.name == "hospital":
                operator.unregister_node(node.node_id)


def public_key(folder: Path) -> str:
    return fingerprint((folder / "node.pub").read_text())


def test_an_institution_joins(coordinator: Coordinator, invited: Path, tmp_path: Path) -> None:
    site = join(invited, tmp_path / "site")
    assert sorted(path.name for path in site.folder.iterdir()) == [
        "ca.crt",
        "data",
        "federation.toml",
        "institution.toml",
        "node.key",
        "node.pub",
    ]
    assert coordinator.enrolled() == {"hospital": public_key(site.folder)}
    assert (site.folder / "ca.crt").read_bytes() == coordinator.home.ca_certificate.read_bytes()
    assert load_federation(site.folder / "federation.toml").digest == site.digest
    assert (site.folder / "federation.toml").read_bytes() == coordinator.home.federation_file.read_bytes()
    private = [site.folder, *(path for path in site.folder.iterdir() if path.suffix != ".pub")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)
    with pytest.raises(EnrolmentError, match="Expected an empty folder"):
        join(invited, tmp_path / "site")
    with pytest.raises(EnrolmentError, match="by another key"):
        join(invited, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".*joining*")), "nothing half made is left"


class DiedError(BaseException):
    """What no handler takes: as if the process were killed."""


def die_before(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    def die(*_: object, **__: object) -> None:
        raise DiedError

    monkeypatch.setattr(module, name, die)


@pytest.mark.parametrize("step", ["generate_node_key", "_authority", "_ask", "_checked", "_write", "sync_folder"])
def test_who_dies_while_joining_goes_on_with_the_same_key(
    coordinator: Coordinator, invited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tmp_path / "site"
    with monkeypatch.context() as patch:
        die_before(patch, joining, step)
        with pytest.raises(DiedError):
            join(invited, folder)
    assert not folder.exists()
    before = coordinator.enrolled()
    join(invited, folder)
    assert coordinator.enrolled() == {"hospital": public_key(folder)}
    assert before in ({}, coordinator.enrolled())
    assert not list(tmp_path.glob(".*joining*"))


@pytest.mark.parametrize("where", ["claim", "_enrol", "_server_key"])
def test_a_coordinator_that_dies_while_it_enrols_is_asked_again(
    coordinator: Coordinator, invited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Before and after each of its steps: the invitation is noted, the key enrolled, the answer made."""
    owner: Any = Invitations if where == "claim" else Reception
    real: Callable[..., Any] = getattr(owner, where)

    def dies_after(*arguments: Any) -> Any:
        real(*arguments)
        raise DiedError

    monkeypatch.setattr(channel, "SECONDS", 2.0)
    for broken in (lambda *_: (_ for _ in ()).throw(DiedError), dies_after):
        with monkeypatch.context() as patch:
            patch.setattr(owner, where, broken)
            with pytest.raises(ConnectionFailedError):
                join(invited, tmp_path / "site")
    join(invited, tmp_path / "site")
    assert coordinator.enrolled() == {"hospital": public_key(tmp_path / "site")}


def test_an_expired_invitation_is_refused_but_for_whose_answer_was_lost(
    coordinator: Coordinator, invited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        die_before(patch, joining, "_write")
        with pytest.raises(DiedError):
            join(invited, tmp_path / "site")
    year = invited.read_text().split("expires = ")[1][:4]
    invited.write_text(invited.read_text().replace(f"expires = {year}", "expires = 2020"))
    with pytest.raises(EnrolmentError, match="still good"):
        join(invited, tmp_path / "other")
    join(invited, tmp_path / "site")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "hospital"', 'name = "bank"', "none with this code"),
        ('code = "', 'code = "x', "none with this code"),
        ('authority = "', 'authority = "00', "authority"),
        ("expires = 20", "expires = never 20", "not valid TOML"),
        ("version = 1", "version = 2", "version"),
    ],
)
def test_a_changed_invitation_is_one_sentence(
    coordinator: Coordinator, invited: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    invited.write_text(invited.read_text().replace(old, new))
    with pytest.raises(CollegiumError, match=words):
        join(invited, tmp_path / "site")
    assert list(tmp_path.iterdir()) == [invited]
    assert coordinator.enrolled() == {}


def test_a_wrong_fingerprint_and_a_door_that_is_none_are_one_sentence(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    authority = coordinator.authority
    text = invited.read_text()
    invited.write_text(text.replace(authority, authority[::-1]))
    with pytest.raises(EnrolmentError, match="do not go on"):
        join(invited, tmp_path / "site")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    invited.write_text(text.replace(coordinator.address, f"localhost:{port}"))
    with pytest.raises(ConnectionFailedError, match=f"localhost:{port}"):
        join(invited, tmp_path / "site")
    invited.write_text(text.replace(coordinator.address, f"localhost:{read_settings(coordinator.home).public_port}"))
    with pytest.raises(ConnectionFailedError):
        join(invited, tmp_path / "site")


def test_invitations_are_for_those_whom_the_file_names_and_who_are_not_enrolled(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    with pytest.raises(EnrolmentError, match="rounds"):
        invite(coordinator.home, "stranger", tmp_path / "x", days=1)
    with pytest.raises(EnrolmentError, match="--out"):
        invite(coordinator.home, "hospital", invited, days=1)
    join(invited, tmp_path / "site")
    with pytest.raises(EnrolmentError, match="rotate-key"):
        invite(coordinator.home, "hospital", tmp_path / "x", days=1)
    assert not (tmp_path / "x").exists()


def test_a_revoked_institution_is_cut_off_at_once_and_for_ever(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    with Enrolled(coordinator, "court") as court:
        held = court.request("pull-messages", PullMessagesRequest(node=court.node).SerializeToString())
        held.headers[HEADER] = "20"
        began = time.monotonic()
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(court.http.send(held)))
        asking.start()
        time.sleep(1.0)
        revoke(coordinator.home, "court")
        asking.join(10)
        assert time.monotonic() - began < 5
        assert answers[0].status_code == 401
        activation = ActivateNodeRequest(public_key=court.public_bytes, heartbeat_interval=30)
        answer = court.ask("activate-node", activation)
        assert answer.status_code != 200
        assert "Its key was revoked." in answer.text
        with OperatorClient(coordinator.home) as operator, pytest.raises(EnrolmentError, match="was revoked"):
            operator.register_node("bank", court.public_bytes)
    coordinator.invite("court", tmp_path / "court.invitation")
    with pytest.raises(EnrolmentError, match="good no more"):
        revoke(coordinator.home, "court")
    with pytest.raises(EnrolmentError, match="none with this code"):
        join(tmp_path / "court.invitation", tmp_path / "court")


class Enrolled:
    """An enrolled institution with a connection to the public door."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self._institution = Institution(coordinator.home, name)

    def __enter__(self) -> Institution:
        return self._institution

    def __exit__(self, *_: object) -> None:
        self._institution.http.close()


def write_receipt(folder: Path) -> None:
    reply = Refusal(institution="hospital", kind="failure", reason="none")
    federation = load_federation(folder / "federation.toml")
    Receipts(folder / "state", folder / "node.key").append(gate.describe(reply, federation=federation, run="1"))


def test_a_new_key_takes_the_place_of_the_old_one_and_receipts_stay_good(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    folder = join(invited, tmp_path / "site").folder
    first = (folder / "node.pub").read_text()
    receipts = Receipts(folder / "state", folder / "node.key")
    write_receipt(folder)
    rotate_key(folder / "institution.toml")
    reply = Refusal(institution="hospital", kind="failure", reason="none")
    federation = load_federation(folder / "federation.toml")
    receipts.append(gate.describe(reply, federation=federation, run="1"))  # by an executor that runs on
    rotate_key(folder / "institution.toml")
    write_receipt(folder)
    assert coordinator.enrolled() == {"hospital": public_key(folder)}
    report = outbox.report(folder / "state", [folder / "node.key"])
    assert len({receipt["key"] for receipt in report["receipts"]}) == 3
    earlier = earlier_keys(folder / "state", read_public_key(folder / "node.key"))
    assert line_of(earlier[-1]) == first.strip()
    with OperatorClient(coordinator.home) as operator, pytest.raises(EnrolmentError, match="was revoked"):
        operator.register_node("bank", as_pem(first))


@pytest.mark.parametrize(
    "step", ["generate_node_key", "enrolment_door", "record_succession", "write_synced", "sync_folder"]
)
def test_who_dies_while_the_key_changes_goes_on(
    coordinator: Coordinator, invited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = join(invited, tmp_path / "site").folder
    file, first = folder / "institution.toml", public_key(folder)
    with monkeypatch.context() as patch:
        die_before(patch, rotating, step)
        with pytest.raises(DiedError):
            rotate_key(file)
    rotate_key(file)
    assert coordinator.enrolled()["hospital"] == public_key(folder) != first
    assert sorted(path.name for path in folder.glob("node*")) == ["node.key", "node.pub"]
    assert len(earlier_keys(folder / "state", read_public_key(folder / "node.key"))) >= 1


def test_a_key_may_be_changed_to_one_that_was_made_before_and_to_no_other_meanwhile(
    coordinator: Coordinator, invited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = join(invited, tmp_path / "site").folder
    generate_node_key(tmp_path / "new.key")
    with monkeypatch.context() as patch:
        die_before(patch, rotating, "record_succession")
        with pytest.raises(DiedError):
            rotate_key(folder / "institution.toml", tmp_path / "new.key")
    generate_node_key(tmp_path / "other.key")
    with pytest.raises(EnrolmentError, match="under way"):
        rotate_key(folder / "institution.toml", tmp_path / "other.key")
    rotate_key(folder / "institution.toml", tmp_path / "new.key")
    assert coordinator.enrolled()["hospital"] == fingerprint((tmp_path / "new.pub").read_text())


def test_a_node_with_a_new_key_is_let_in_at_once(coordinator: Coordinator) -> None:
    with Enrolled(coordinator, "bank") as bank:
        new = Key()
        old = Key(bank.key)
        assert coordinator.send("Rotate", coordinator.rotation("bank", old, new))
        assert bank.ask("pull-messages", PullMessagesRequest(node=bank.node)).status_code == 401
        bank.key, bank.public_key = new.private, new.private.public_key()
        activation = ActivateNodeRequest(public_key=bank.public_bytes, heartbeat_interval=30)
        assert bank.ask("activate-node", activation).status_code == 200
        assert bank.ask("activate-node", activation).status_code != 200, "only once before its heartbeat ends"
    revoke(coordinator.home, "bank")


def test_who_leaves_is_gone_for_good(coordinator: Coordinator, invited: Path, tmp_path: Path) -> None:
    folder = join(invited, tmp_path / "site").folder
    assert leave(folder / "institution.toml").name == "hospital"
    assert coordinator.enrolled() == {}
    leave(folder / "institution.toml")  # the answer may have been lost
    departures = Invitations(coordinator.home.enrolment_database).departures()
    assert [each.how for each in departures if each.name == "hospital"][-1] == "left"
    with pytest.raises(EnrolmentError, match="not any more"):
        rotate_key(folder / "institution.toml")
    shutil.rmtree(folder)
    with pytest.raises(EnrolmentError, match="none with this code"):
        join(invited, folder)


def test_a_name_that_was_enrolled_meanwhile_and_an_agreement_without_it_are_refused(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    with OperatorClient(coordinator.home) as operator:
        generate_node_key(tmp_path / "by-hand.key")
        line = (tmp_path / "by-hand.pub").read_text()
        operator.register_node("hospital", as_pem(line))
    with pytest.raises(EnrolmentError, match="name that is free"):
        join(invited, tmp_path / "site")
    revoke(coordinator.home, "hospital")
    before = coordinator.home.federation_file.read_bytes()
    coordinator.invite("hospital", tmp_path / "second.invitation")
    try:
        coordinator.home.federation_file.write_text(before.decode().replace('"hospital",', ""))
        with pytest.raises(EnrolmentError, match="not in it any more"):
            join(tmp_path / "second.invitation", tmp_path / "site")
    finally:
        coordinator.home.federation_file.write_bytes(before)
    join(tmp_path / "second.invitation", tmp_path / "site")


def serial(coordinator: Coordinator, port: int | None) -> int:
    with (
        socket.create_connection(("localhost", port or 0)) as plain,
        trusting(coordinator.home).wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        found = secured.getpeercert()
        assert found
        return int(str(found["serialNumber"]), 16)


def test_both_doors_show_a_new_certificate_without_a_restart(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    settings = read_settings(coordinator.home)
    with Enrolled(coordinator, "bank") as bank:
        ports = (settings.public_port, settings.operator_port)
        assert bank.ask("pull-messages", PullMessagesRequest(node=bank.node)).status_code == 200
        before = [serial(coordinator, port) for port in ports]
        renew(coordinator.home, settings)
        time.sleep(1.5)
        after = [serial(coordinator, port) for port in ports]
        assert after[0] != before[0]
        assert len(set(after)) == 1
        stays = bank.ask("pull-messages", PullMessagesRequest(node=bank.node))
        assert stays.status_code == 200, "open connections go on, and who trusts the authority needs nothing new"
    revoke(coordinator.home, "bank")
    join(invited, tmp_path / "site")


@pytest.mark.slow
def test_an_authority_is_replaced_and_nobody_enrols_anew(tmp_path: Path) -> None:
    with welcoming(tmp_path) as coordinator:
        sites = {}
        for name in ("hospital", "bank"):
            coordinator.invite(name, tmp_path / f"{name}.invitation")
            sites[name] = join(tmp_path / f"{name}.invitation", tmp_path / name).folder
        old_trust = coordinator.home.ca_certificate.read_bytes()
        begin_authority(coordinator.home)
        coordinator.invite("court", tmp_path / "court.invitation")
        sites["court"] = join(tmp_path / "court.invitation", tmp_path / "court").folder  # gets both authorities
        (sites["hospital"] / "ca.crt").write_bytes(coordinator.home.ca_certificate.read_bytes())
        rotate_key(sites["hospital"] / "institution.toml")
        before = coordinator.enrolled()
    finish_authority(coordinator.home, read_settings(coordinator.home))
    with forked(coordinator.home), door(coordinator.home):
        assert coordinator.enrolled() == before
        for name in ("hospital", "court"):
            rotate_key(sites[name] / "institution.toml")
        assert (sites["bank"] / "ca.crt").read_bytes() == old_trust
        with pytest.raises(EnrolmentError, match="another certificate"):
            rotate_key(sites["bank"] / "institution.toml")
        (sites["bank"] / "ca.crt").write_bytes(coordinator.home.ca_certificate.read_bytes())
        rotate_key(sites["bank"] / "institution.toml")


def test_a_patient_client_gets_through_where_tries_are_few(
    coordinator: Coordinator, invited: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    settings = read_settings(coordinator.home).model_copy(update={"enrolment_port": port})
    server, _ = open_door(coordinator.home, settings, Tries(at_once=2))
    server.start()
    try:
        invited.write_text(invited.read_text().replace(coordinator.address, f"localhost:{port}"))
        began = time.monotonic()
        join(invited, tmp_path / "site")
        assert time.monotonic() - began > 1
    finally:
        server.stop(0).wait()


@pytest.mark.slow
def test_a_taken_port_is_one_sentence(coordinator: Coordinator) -> None:
    with pytest.raises(ConnectionFailedError, match="enrolment_port"):
        open_door(coordinator.home, read_settings(coordinator.home))
