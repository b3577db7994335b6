"""On the wire of an institution that is enrolled, and that a run does not name, is what was there before the run."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from server.home import ServerHome
from server.opening import open_store
from server.runs.steering import follow, start
from shared.federation import Federation, federation_toml
from simulations.chaos.playing import tiny_experiment
from simulations.demo import Surroundings, standing

IDLE_SECONDS = 40.0
"""Longer than a question is held, and than heartbeats are apart."""


def messages(stream: bytes) -> Iterator[tuple[bytes, Mapping[bytes, bytes], bytes]]:
    """First line, headers and body of each message that is there whole."""
    while b"\r\n\r\n" in stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        length = int(headers[b"content-length"])
        if len(rest) < length:
            return
        yield first, headers, rest[:length]
        stream = rest[length:]


class Wire:
    """What a tap has heard, from some moment on."""

    def __init__(self, tap: Any) -> None:
        self._tap = tap
        self._before: list[tuple[int, int]] = []

    def forget(self) -> None:
        """Begin anew."""
        self._before = [(len(up), len(down)) for up, down in zip(self._tap.sent, self._tap.received, strict=True)]

    def connections(self) -> list[tuple[bytes, bytes]]:
        """Bytes to and from the coordinator. An answer to what was asked before comes first."""
        before = [*self._before, *[(0, 0)] * (len(self._tap.sent) - len(self._before))]
        pairs = zip(self._tap.sent, self._tap.received, before, strict=True)
        return [(bytes(up[a:]), bytes(down[b:])) for up, down, (a, b) in pairs]

    def asked(self) -> set[bytes]:
        """First lines of requests."""
        return {first for up, _ in self.connections() for first, _, _ in messages(up)}

    def answered(self) -> set[tuple[bytes, frozenset[tuple[bytes, bytes]], bytes]]:
        """First lines, headers but for the date, and bodies of answers."""
        return {
            (first, frozenset(headers.items() - {(b"date", headers[b"date"])}), body)
            for _, down in self.connections()
            for first, headers, body in messages(down)
        }

    def everything(self) -> bytes:
        return b"".join(up + down for up, down in self.connections())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whom_a_run_does_not_name_gets_not_a_byte_of_it(tmp_path: Path, make_tap: Callable[[ServerHome], Any]) -> None:
    experiment = tiny_experiment(tmp_path / "records", ["bank", "hospital"])
    folder, taps = tmp_path / "deployed", dict[str, Any]()

    def port(name: str, _public: int) -> int:
        taps[name] = make_tap(ServerHome(folder / "coordinator"))
        return int(taps[name].port)

    try:
        with standing(experiment, folder, lambda _: None, Surroundings(port=port)) as (home, check):
            bank, hospital = Wire(taps["bank"]), Wire(taps["hospital"])
            run_without_the_bank = take_off(home, folder, experiment.federation)
            wait_for_idleness(bank)
            bank.forget()
            time.sleep(IDLE_SECONDS)
            idle = bank.asked(), bank.answered()
            bank.forget()
            hospital.forget()
            run = start(home.root).run_id
            assert follow(home.root, run, lambda _: None, seen=0, check=check)["status"] == "completed"
            with open_store(home.root) as store:
                numbers = str(store.run(run)["flower_run"])
                assert store.agreement(run).digest == run_without_the_bank.digest
            wait_for_question(bank)  # its last one may be held since before the run, which is short
            meanwhile, heard = (bank.asked(), bank.answered()), bank.everything()
            told = hospital.everything()
    finally:
        for tap in taps.values():
            tap.stop()
    assert meanwhile[0] <= idle[0], "it asked nothing else"
    assert meanwhile[1] <= idle[1], "and got the same answers, to the byte"
    words = [run, numbers, run_without_the_bank.digest, "hospital", "clauses", *run_without_the_bank.tasks]
    assert [word for word in words if word.encode() in heard] == []
    assert int(numbers).to_bytes(8, "little") not in heard
    assert {run, run_without_the_bank.digest, "clauses"} <= {word for word in words if word.encode() in told}
    assert len(heard) < len(told) / 10


def take_off(home: ServerHome, folder: Path, federation: Federation) -> Federation:
    """Change the agreement by hand, at the coordinator and those who stay: the bank is not in it any more."""
    rounds = federation.rounds.model_copy(update={"institutions": ("hospital",), "quorum": 1, "count": 2})
    training = federation.training.model_copy(update={"epochs_per_round": 1})
    without = federation.model_copy(update={"rounds": rounds, "training": training})
    for file in (home.federation_file, *(folder / name / "federation.toml" for name in rounds.institutions)):
        file.write_text(federation_toml(without), encoding="utf-8")
    return without


def wait_for_idleness(wire: Wire) -> None:
    """Until the daemon is connected and has said its word on agreements."""
    wait_for_question(wire)
    time.sleep(15)


def wait_for_question(wire: Wire) -> None:
    """Until the daemon asks whether there is a message for it."""
    end = time.monotonic() + 120
    while not any(b"pull-messages" in line for line in wire.asked()):
        assert time.monotonic() < end, "the institution asks nothing"
        time.sleep(0.2)
