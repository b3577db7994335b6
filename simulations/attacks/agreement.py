"""Ways to have an institution train under an agreement that it has not approved: swapped, disguised, replayed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from client.agreement.approval import approve, approve_additions, keep_offer, read_agreements, take_up
from client.agreement.asking import ask
from client.institution import Institution, load_institution
from client.keys import generate_node_key
from server.agreement import Offers, propose, standing
from server.enrolment.authority import create_authority
from shared.errors import CollegiumError
from shared.federation import Federation, federation_toml
from shared.federation.changes import describe_changes
from shared.federation.offers import LONGEST, Word, write_offer
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import new_home
from simulations.attacks.stage import tiny_federation, write_tiny_bert

Edit = Mapping[str, Any]
HARMFUL: Mapping[str, Edit] = {
    "privacy dropped": {"privacy": None},
    "more epsilon": {"privacy": {"epsilon": 30.0}},
    "larger delta": {"privacy": {"delta": 1e-3}},
    "another task": {"tasks": {"codes": {"type": "question-answering"}}},
    "other labels": {"tasks": {"clauses": {"type": "text-classification", "labels": ["payment", "patient"]}}},
    "another method": {"rounds": {"method": "fedsvd"}},
    "many passes": {"training": {"epochs_per_round": 100}},
    "exact updates": {"wire": {"up": "float32", "compress": True}},
    "another backbone": {"backbone": {"sha256": "0" * 64}},
    "one institution alone": {"rounds": {"institutions": ["hospital"], "quorum": 1}},
    "more rounds under [privacy]": {"rounds": {"count": 90}},
}
"""What a coordinator would like, over an agreement with [privacy]."""
NOTHING: Edit = {}


@dataclass(frozen=True)
class Site:
    """A hospital with an approved agreement, and what its coordinator may offer it."""

    institution: Institution
    approved: Federation

    @classmethod
    def made(cls, folder: Path, **policy: Any) -> "Site":
        """In an empty folder."""
        (folder / "bert").mkdir(parents=True)
        approved = tiny_federation(
            write_tiny_bert(folder / "bert"),
            ("hospital", "bank"),
            privacy={"epsilon": 3.0},
            training={"weight_decay": 0.0, "head_dropout": 0.0},
            rounds={"weighting": "equal", "method": "ffa"},
        )
        (folder / "federation.toml").write_text(federation_toml(approved), encoding="utf-8")
        (folder / "ca.crt").write_bytes(create_authority().certificate)
        generate_node_key(folder / "node.key")
        values = {"name": "hospital", "data": {"clauses": {"train": "c.jsonl"}}, "policy": policy}
        (folder / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return cls(load_institution(folder / "institution.toml"), approved)

    def edited(self, edit: Edit) -> Federation:
        """The approved agreement with some keys changed."""
        values = self.approved.model_dump(mode="json", exclude_none=True)
        for table, changes in edit.items():
            values[table] = values.get(table, {}) | changes if isinstance(changes, Mapping) else changes
        return Federation.model_validate(values)

    def hears(self, answer: bytes) -> None:
        """Ask a coordinator that answers so."""
        ask(self.institution, transport=httpx.MockTransport(lambda request: httpx.Response(200, content=answer)))

    def would_train(self, federation: Federation) -> bool:
        """Whether a request under this agreement is let through now."""
        return take_up(self.institution, federation.digest)


def swapped(folder: Path) -> Outcome:
    """Show one file, and send another before the operator's word comes, and after it."""
    attempts = succeeded = 0
    for number, edit in enumerate(HARMFUL.values()):
        site = Site.made(folder / str(number))
        shown, meant = site.edited({"rounds": {"patience": 0, "deadline_seconds": 90.0}}), site.edited(edit)
        for before in (True, False):
            attempts += 1
            keep_offer(site.institution, shown)
            if before:
                keep_offer(site.institution, meant)
            with suppress(CollegiumError):
                approve(site.institution, shown.digest)
            keep_offer(site.institution, meant)
            succeeded += site.would_train(meant)
    return Outcome(attempts, succeeded)


def under_another_name(folder: Path) -> Outcome:
    """Send one file under the digest of another: of the approved one, and of one that was shown before."""
    site = Site.made(folder)
    shown = site.edited({"rounds": {"deadline_seconds": 90.0}})
    attempts = succeeded = 0
    for edit in HARMFUL.values():
        meant = site.edited(edit)
        for digest in (shown.digest, site.approved.digest):
            attempts += 1
            with suppress(CollegiumError):
                site.hears(json.dumps(write_offer(meant, held=None) | {"offered": digest}).encode())
                approve(site.institution, digest)
            succeeded += site.would_train(meant)
    return Outcome(attempts, succeeded)


def unnamed_change(folder: Path) -> Outcome:
    """Change a key so that the words do not show it: as small as it gets, beside much else, disguised."""
    site = Site.made(folder)
    noise: Edit = {"rounds": {"deadline_seconds": 90.0, "quorum": 2}, "training": {"batch_tokens": 999}}
    disguises: dict[str, Edit] = {
        "a letter of another alphabet": {"tasks": {"clauses": _clauses("p\u0430yment")}},
        "escape codes": {"tasks": {"clauses": _clauses("payment\x1b[2K\rnothing differs")}},
        "a line of its own": {"tasks": {"clauses": _clauses("payment\n  rounds 2 -> 3")}},
        "right to left": {"tasks": {"clauses": _clauses("payment\u202etnemyap")}},
        "invisible": {"tasks": {"clauses": _clauses("payment\u200b")}},
        "the end of a long text": {"backbone": {"name": "/models/" + "a" * 5000 + "x"}},
        "the last digit": {"privacy": {"delta": 1.0000000000000001e-05 * (1 + 1e-15)}},
    }
    attempts = succeeded = 0
    for edit in (*HARMFUL.values(), *disguises.values()):
        for beside in (NOTHING, noise):
            changed = site.edited(_merged(beside, edit))
            if changed.digest == site.approved.digest:
                continue
            attempts += 1
            lines = describe_changes(site.approved, changed)
            named = all(any(_names(line, table) for line in lines) for table in edit)
            succeeded += not named or not all(line.isascii() or "spelt" in line for line in lines)
            succeeded += not all(line.isprintable() for line in lines)
    return Outcome(attempts, succeeded)


def beyond_additions(folder: Path) -> Outcome:
    """Hide a change among the institutions and rounds that a policy lets through by itself."""
    attempts = succeeded = 0
    site = Site.made(folder, approve="additions")
    added: Edit = {"institutions": ["hospital", "bank", "clinic"]}
    for edit in HARMFUL.values():
        for rounds in (NOTHING, added, {**added, "count": 9}):
            attempts += 1
            meant = site.edited(_merged({"rounds": rounds}, edit))
            keep_offer(site.institution, meant)
            approve_additions(site.institution)
            succeeded += site.would_train(meant)
    return Outcome(attempts, succeeded)


def replayed(folder: Path) -> Outcome:
    """Have one institution's approval count as another's, or an old one for a new file, at an honest coordinator."""
    site, home = Site.made(folder / "site"), new_home(folder / "coordinator")
    home.federation_file.write_text(federation_toml(site.approved), encoding="utf-8")
    offers = Offers(home)
    attempts = succeeded = 0
    for number, edit in enumerate(HARMFUL.values()):
        (file := folder / f"{number}.toml").write_text(federation_toml(site.edited(edit)), encoding="utf-8")
        digest, _ = propose(home, file)
        for name in ("bank", "hospital-", "clinic"):
            attempts += 1
            offers.hear(name, Word(approved=(digest,)), "")
            succeeded += "hospital" in standing(home, site.edited(edit)).approved
        attempts += 1
        offers.hear("hospital", Word(approved=(site.approved.digest,)), "")
        succeeded += standing(home, site.edited(edit)).ready
    return Outcome(attempts, succeeded)


def huge(folder: Path) -> Outcome:
    """Offer what is too long, too deep or no agreement at all: nothing of it may be kept, or end the asking thread."""
    site, attempts, succeeded = Site.made(folder), 0, 0
    for answer in _nonsense(site.approved):
        attempts += 1
        try:
            site.hears(answer)
        except CollegiumError:
            pass
        except Exception:  # the thread that asks would tell of a fault
            succeeded += 1
        succeeded += read_agreements(site.institution).offered is not None
    return Outcome(attempts, succeeded)


def _nonsense(approved: Federation) -> Iterator[bytes]:
    values = json.loads(approved.model_dump_json())
    yield b"x" * (LONGEST + 1)
    yield b'{"offered": "' + b"0" * 64 + b'", "agreement": {"tasks": ' + b"[" * 200_000
    yield b'{"a":' * 200_000
    yield json.dumps({"offered": "0" * 64, "agreement": values | {"backbone": {"name": "x" * LONGEST}}}).encode()
    yield json.dumps({"offered": "0" * 64, "agreement": values | {"rounds": 1}}).encode()
    yield json.dumps({"offered": 1e400, "agreement": values | {"seed": 10**400}}).encode()
    yield b"\xff\xfe" * 1000
    yield b""


def _merged(first: Edit, second: Edit) -> Edit:
    """Both edits, the second one where both have a key."""
    merged = dict(first)
    for table, changes in second.items():
        both = isinstance(changes, Mapping) and isinstance(merged.get(table), Mapping)
        merged[table] = {**merged[table], **changes} if both else changes
    return merged


def _clauses(label: str) -> dict[str, Any]:
    return {"type": "text-classification", "labels": [label, "liability"]}


def _names(line: str, table: str) -> bool:
    return line.startswith((f"{table}.", f"[{table}", "institution ", "rounds ", "task "))


PROMISE = (
    "An institution trains under an agreement only once its operator, or its own policy, has approved that very file."
)
ATTACKS = (
    Attack("an agreement swapped before or after the operator's word", "a coordinator", PROMISE, swapped),
    Attack("an agreement under the digest of another", "a coordinator", PROMISE, under_another_name),
    Attack(
        "a change that the words do not show",
        "a coordinator",
        "`collegium client agreement` names every key that differs, on a line that cannot be forged.",
        unnamed_change,
    ),
    Attack(
        "a change hidden among additions",
        "a coordinator",
        'policy.approve = "additions" lets nothing through but institutions and rounds.',
        beyond_additions,
    ),
    Attack(
        "another institution's approval, and an old one",
        "an institution",
        "A run under an offered agreement begins once all whom it names have approved that very file.",
        replayed,
    ),
    Attack("an agreement that is none", "a coordinator", PROMISE, huge),
)
