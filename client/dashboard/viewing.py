"""What the page shows of a site: out of its state folder, and never anything of a record."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.agreement.approval import read_agreements
from client.agreement.report import obstacles
from client.dashboard.children import Child
from client.enrolment.succession import earlier_keys
from client.institution import Institution, load_institution
from client.keys import read_public_key
from client.leaving import outbox, receipts
from client.service.daemon import LOCK
from shared.errors import CollegiumError
from shared.page.rendering import Pages
from shared.process.lock import holder

SHOWN = 50
"""Receipts on one page."""
LATELY = 10
"""Rounds whose cost tells what the next ones cost."""
TONES = {"train": "busy", "evaluate": "calm", "query": "calm", "refusal": "warn"}
VERDICTS = {"ok": "good", "warning": "warn", "error": "bad", "ready": "good", "review": "warn", "blocked": "bad"}


class View:
    """All that the page shows of one site.

    Args:
        file: Its `institution.toml`.
        pages: The templates.

    Raises:
        ConfigError: The file is wrong.
    """

    def __init__(self, file: Path, pages: Pages) -> None:
        self.file, self._pages = file, pages
        self.institution: Institution = load_institution(file)
        self.state = self.institution.runtime.state
        self._ledger = Child(("client", "ledger", str(file), "--verify"))
        self._ledger_seen: object = None
        words = ("client", "doctor", str(file), "--no-forecast")
        self.doctor = Child(words, codes=(0, 1), kept=_verdicts)
        self._read: tuple[object, list[dict[str, Any]]] = (None, [])

    def receipts(self) -> list[dict[str, Any]]:
        """All of them, unchecked; read again when the log has grown."""
        seen = _stat(receipts.files(self.state)[0])
        if seen != self._read[0]:
            self._read = seen, receipts.read(self.state)
        return self._read[1]

    def verify(self) -> str:
        """Check the chain and every signature; a sentence.

        Raises:
            StoreError: Something is wrong with it, and where.
            EnrolmentError: The key cannot be read.
        """
        key = read_public_key(self.institution.identity.key)
        found = receipts.verify(self.state, [key, *earlier_keys(self.state, key)])
        return f"Verified: {len(found)} receipts, none edited, missing or moved."

    def parts(self) -> dict[str, str]:
        """The parts of the page that change."""
        return {name: self._pages.render(f"{name}.html", values) for name, values in self._values().items()}

    def _values(self) -> dict[str, dict[str, Any]]:
        written = self.receipts()
        return {
            "now": {"now": self.now(written)},
            "held": {"held": outbox.waiting(self.state)},
            "left": {"rows": list(reversed(written[-SHOWN:])), "count": len(written), "tones": TONES},
            "privacy": {"privacy": self.privacy(written)},
            "readiness": {"doctor": self.doctor.told, "busy": self.doctor.busy, "tones": VERDICTS},
        }

    def now(self, written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What runs here."""
        last = next((each for each in reversed(written) if each["round"] is not None), None)
        try:
            rounds: int | None = read_agreements(self.institution).current.rounds.count
        except CollegiumError:
            rounds = None
        mine = [each for each in written if last and each["run"] == last["run"]]
        trained = [each for each in mine if each["kind"] == "train"]
        # Not the last one's: a run ends with scores of its best round.
        round = max((each["round"] for each in mine if each["round"] is not None), default=0)
        return {
            "up": holder(self.state / LOCK) is not None,
            "last": last,
            "rounds": rounds,
            "round": round,
            "percent": min(100.0, 100 * round / rounds) if last and rounds else 0,
            "trained": len(trained),
            "bytes": sum(each["bytes"] for each in mine),
            "refused": sum(each["kind"] == "refusal" for each in mine),
        }

    def privacy(self, written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is spent and left, as `client ledger` says; asked again when ledger or receipts have changed."""
        ledger = self.institution.runtime.ledger or self.state / "ledger.sqlite"
        seen = _stat(ledger), _stat(ledger.with_name(f"{ledger.name}-wal")), len(written)
        if seen != self._ledger_seen and not self._ledger.busy:
            self._ledger_seen = seen
            self._ledger.ask()
        told = self._ledger.told
        found = told.found if told else None
        rows = []
        for each in (*found["datasets"], *found["scored"]) if found else ():
            allowed = found["evaluation_epsilon" if "split" in each else "max_epsilon"] if found else None
            share = min(1.0, each["epsilon"] / allowed) if allowed and each["epsilon"] is not None else None
            last = forecast(written, each["left"]) if "split" not in each else None
            rows.append({**each, "allowed": allowed, "percent": share and round(100 * share, 1), "rounds": last})
        return {"asked": told is not None, "wrong": told.wrong if told else "", "rows": rows}

    def agreement(self) -> dict[str, Any]:
        """What is in force, what is approved, what is offered, and how that differs; the coordinator is not asked."""
        try:
            found = read_agreements(self.institution)
        except CollegiumError as error:
            return {"wrong": str(error)}
        offer = found.offered
        return {
            "wrong": "",
            "current": found.current,
            "coming": found.coming.digest if found.coming else None,
            "offered": offer.digest if offer else None,
            "declined": offer is not None and offer.digest == found.declined,
            "changes": found.changes,
            "obstacles": obstacles(self.institution, offer) if offer else [],
        }


def forecast(written: Sequence[Mapping[str, Any]], left: float | None) -> int | None:
    """For how many more rounds a budget lasts, if they cost what the last ones of the same run did."""
    spent = [each for each in written if each["kind"] == "train" and each["epsilon"] is not None]
    lately = [each["epsilon"] for each in spent if each["run"] == spent[-1]["run"]][-LATELY:]
    if left is None or len(lately) < 2 or lately[-1] <= lately[0]:
        return None
    return int(left / ((lately[-1] - lately[0]) / (len(lately) - 1)))


def _verdicts(found: dict[str, Any]) -> dict[str, Any]:
    """Of what the doctor says the verdicts alone, and when; no line of a file."""
    rows = [
        {
            "verdict": each["verdict"],
            "about": " ".join(str(part) for part in (each.get("task"), each.get("split"), each["check"]) if part),
            "text": f"{each['text']} {each.get('advice', '')}".strip(),
        }
        for each in (*found["findings"], *found["site"])
    ]
    order = {"error": 0, "warning": 1}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "verdict": found["verdict"],
        "rows": sorted(rows, key=lambda row: order.get(row["verdict"], 2)),
        "time": now,
    }


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
