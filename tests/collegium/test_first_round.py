"""docs/first-round.md, typed as it stands: from nothing to the first round, in at most twelve commands."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.demo import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "first-round.md"
COMMAND = re.compile(r"^(coordinator|hospital|bank)\$ (collegium .*?)( &)?$", re.MULTILINE)
RECORDS = [
    {"text": f"{words}, number {number}", "label": label}
    for number in range(10)
    for words, label in (("The patient rests", "medical"), ("The buyer pays", "legal"), ("The bond falls", "financial"))
]


def commands() -> list[tuple[str, str, bool]]:
    """Who types it, what, and whether it stays in the background."""
    return [(who, line, bool(stays)) for who, line, stays in COMMAND.findall(PAGE.read_text(encoding="utf-8"))]


def test_the_page_needs_at_most_twelve_commands_and_every_line_is_one() -> None:
    lines = re.findall(r"^\w+\$ .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == len(commands()) <= 12
    typed = " ".join(line for _, line, _ in commands())
    assert typed.count("server invite") == typed.count("client join") == 2
    assert {10: "Ten"}[len(lines)] in PAGE.read_text(encoding="utf-8")


class Party:
    """Somebody in a folder of their own, with what they have started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[str]]()
        folder.mkdir()

    def type(self, line: str, stays: bool) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "collegium", *shlex.split(line)[1:]]
        log = (self.folder / f"{len(self.started)}.log").open("w")
        environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1])}
        process = subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=log, text=True, env=environment)
        log.close()
        self.started.append(process)
        if not stays:
            assert process.wait(180) == 0, f"{line}: {self.said()}"
        return process

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def wait_for(self, words: str, seconds: float = 180.0) -> None:
        end = time.monotonic() + seconds
        while words not in self.said():
            assert time.monotonic() < end, f"{words!r} was not said: {self.said()}"
            time.sleep(0.1)

    def approve(self, name: str) -> None:
        """What the page has an institution do by hand."""
        file = self.folder / name / "institution.toml"
        digest = re.findall(r"whose digest is ([0-9a-f]{64})", self.said())[-1]
        text = file.read_text().replace("federations = []", f'federations = ["{digest}"]')
        for line in ("[data.topics]", 'train = "data/topics'):
            text = text.replace(f"#{line}", line)
        file.write_text(text)
        records = "".join(json.dumps(record) + "\n" for record in RECORDS)
        (self.folder / name / "data" / "topics.train.jsonl").write_text(records)

    def end(self) -> None:
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[dict[str, Party]]:
    found = {name: Party(tmp_path / name) for name in ("coordinator", "hospital", "bank")}
    yield found
    for name in ("bank", "hospital", "coordinator"):
        found[name].end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_leads_to_the_first_round(parties: dict[str, Party], tiny_bert: Path) -> None:
    """With other ports, a smaller BERT and fewer rounds than the page, since other tests run beside it."""
    coordinator = parties["coordinator"]
    public, operator, enrolment = free_ports(3)
    here = f" --port {public} --operator-port {operator} --enrolment-port {enrolment} --backbone {tiny_bert}"
    for who, line, stays in commands():
        party = parties[who]
        if "server init" in line:
            party.type(line.replace("fl.example.org", "localhost") + here, stays)
            file = party.folder / "coordinator" / "federation.toml"
            text = file.read_text().replace("count = 8", "count = 1").replace("max_length = 256", "max_length = 64")
            file.write_text(text)
            continue
        if "client doctor" in line or "client up" in line:
            party.approve(who)
        party.type(line, stays)
        if "server up" in line:
            party.wait_for("The server is up")
        if "server invite" in line:
            name = f"{line.split()[3]}.invitation"
            shutil.move(party.folder / name, parties[line.split()[3]].folder / name)
    assert "Round 1 of 1" in coordinator.said()
    for name in ("hospital", "bank"):
        assert f"{name} takes part with topics" in coordinator.said()
    assert coordinator.started[-1].returncode == 0
