"""What the page asks the folder, the store and the SuperLink for; readers are kept while pages are open."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from server.agreement import offered, standing, words
from server.dashboard import tables
from server.dashboard.reader import Picture, Reader
from server.enrolment.certificates import look
from server.enrolment.invitations import Departure, Invitations
from server.home import ServerHome
from server.opening import open_store
from server.release.gate import measure, missed
from server.release.lineage import scored_worst
from server.rounds.outcomes import primary_outcomes
from server.runs.status import runs_report
from server.service.operator import Node, OperatorClient
from server.store import Store, checkpoints, runs, withdrawn
from server.upkeep.retention import sizes
from shared.errors import CollegiumError, ConfigError
from shared.federation import load_federation
from shared.federation.changes import describe_changes
from shared.page.rendering import Pages

NODES_SECONDS = 5.0
"""How old what is known of nodes may be."""
MOST_READERS = 8
MOST_RUNS = 12
"""Of the latest, in the list of runs."""
TABLE_SECONDS = 5.0
"""A table of all institutions is made anew at most so often: of fifty, an answer comes every second."""


@dataclass(frozen=True)
class Part:
    """A rendered part of a page: what it was made of, and when."""

    state: Any
    time: float
    html: str


class View:
    """All that the page shows of one coordinator.

    Args:
        home: Its folder. Store and SuperLink are opened when they are first needed.
    """

    def __init__(self, home: ServerHome, pages: Pages) -> None:
        self.home, self._pages = home, pages
        self._readers: dict[str, Reader] = {}
        self._rendered: dict[str, dict[str, Part]] = {}
        self._lock = threading.RLock()
        self._operator: OperatorClient | None = None
        self._nodes: tuple[Sequence[Node] | None, Mapping[str, int]] = (None, {})
        self._departures: list[Departure] = []
        self._asked = -NODES_SECONDS

    @cached_property
    def store(self) -> Store:
        """The coordinator's."""
        return open_store(self.home.root)

    def prepare(self) -> None:
        """Read and render the latest run, whoever may look then."""
        with suppress(CollegiumError):
            self.run_page(None)

    def latest(self) -> str | None:
        """The run that was made last."""
        rows = self.store.rows(runs)
        return str(rows[-1]["run"]) if rows else None

    def picture(self, run: str) -> tuple[Picture, dict[str, Any]]:
        """A run as it is now; see `Reader.read`."""
        with self._lock:
            if run not in self._readers:
                while len(self._readers) >= MOST_READERS:
                    gone = next(iter(self._readers))
                    del self._readers[gone]
                    self._rendered.pop(gone, None)
                self._readers[run] = Reader(self.store, run)
            return self._readers[run].read()

    def nodes(self) -> tuple[Sequence[Node] | None, Mapping[str, int]]:
        """Who is enrolled, None while the SuperLink does not say; and by name, how often a limit was passed."""
        with self._lock:
            if time.monotonic() - self._asked >= NODES_SECONDS:
                self._asked = time.monotonic()
                self._departures = Invitations(self.home.enrolment_database).departures()
                try:
                    self._operator = self._operator or OperatorClient(self.home)
                    nodes = self._operator.nodes()
                    names = {node.node_id: node.name for node in nodes}
                    passed = {names.get(row["node_id"], ""): int(row["times"]) for row in self._operator.refused()}
                    self._nodes = nodes, passed
                except CollegiumError:
                    self._nodes = None, {}
            return self._nodes

    def forget_nodes(self) -> None:
        """Ask anew at the next look."""
        self._asked = -NODES_SECONDS

    def institutions(self, picture: Picture | None) -> list[dict[str, Any]]:
        """See `tables.institutions`."""
        nodes, passed = self.nodes()
        return tables.institutions(picture, nodes, self._departures, passed)

    def parts(self, run: str) -> dict[str, str]:
        """The parts of a run's page that change, rendered once for all who look, and only those that have changed."""
        with self._lock:
            picture, stamp = self.picture(run)
            self.nodes()
            made = self._rendered.setdefault(run, {})
            told = [stamp[name] for name in ("replies", "spending", "evaluations", "findings")]
            self._render(made, "progress", dict(stamp), lambda: {"p": tables.progress(picture)})
            self._render(made, "events", stamp["events"], lambda: {"events": list(reversed(picture.events))})
            self._render(
                made, "institutions", (told, self._nodes), lambda: {"rows": self.institutions(picture)}, slow=True
            )
            scored = stamp["scores"], stamp["rounds"], stamp["digest"]
            found: dict[str, list[tables.Scores]] | None = None
            for number, task in enumerate(picture.federation.tasks, start=1):

                def of_task(task: str = task) -> dict[str, Any]:
                    nonlocal found
                    found = tables.score_tables(picture) if found is None else found
                    return {"task": task, "rows": found.get(task, [])}

                self._render(made, f"scores-{number}", scored, of_task, template="scores.html", slow=True)
            return {name: part.html for name, part in made.items()}

    def _render(
        self,
        made: dict[str, Part],
        name: str,
        state: Any,
        values: Callable[[], Mapping[str, Any]],
        *,
        template: str = "",
        slow: bool = False,
    ) -> None:
        """Make a part anew, if it was made of something else; one of many rows not more often than TABLE_SECONDS."""
        now, last = time.monotonic(), made.get(name)
        if last is not None and (last.state == state or (slow and now - last.time < TABLE_SECONDS)):
            return
        made[name] = Part(state, now, self._pages.render(template or f"{name}.html", values()))

    def run_page(self, run: str | None) -> dict[str, Any]:
        """What `run.html` shows; `run` is the latest if not named."""
        chosen = run or self.latest()
        if chosen is None:
            return {"progress": None}
        picture, _ = self.picture(chosen)
        few = len(picture.federation.rounds.institutions) <= 12
        tasks = [
            {"name": name, "metric": picture.metrics[name], "drawn": bool(picture.curves.get(name)), "open": few}
            for name in picture.federation.tasks
        ]
        listed = list(reversed(runs_report(self.store)))
        return {
            "progress": tables.progress(picture),
            "federation": picture.federation.name,
            "method": picture.federation.method_name,
            "digest": picture.row["digest"],
            "tasks": tasks,
            "parts": {name: Markup(part) for name, part in self.parts(chosen).items()},  # rendered by `parts`, escaped
            "release": self.release(picture),
            "runs": [{**each, "tone": tables.TONES.get(each["status"], "calm")} for each in listed[:MOST_RUNS]],
            "more_runs": max(0, len(listed) - MOST_RUNS),
        }

    def release(self, picture: Picture) -> dict[str, Any] | None:
        """The released round of a completed run."""
        run = picture.row["run"]
        best = self.store.best_round(run) if picture.row["status"] == "completed" else None
        if best is None:
            return None
        stored = {row["round"]: row["sha256"] for row in self.store.rows(checkpoints, run)}
        scored = {row["round"]: row["score"] for row in picture.rounds}
        return {
            "round": best,
            "score": scored.get(best),
            "sha256": stored.get(best, ""),
            "rows": primary_outcomes(self.store, run),
            "missed": self._missed(picture, best),
            "withdrawn": sorted(withdrawn(self.store).keys() & set(picture.federation.rounds.institutions)),
        }

    def _missed(self, picture: Picture, best: int) -> list[str]:
        """What the agreement asks of a release and is not known, or not met; audits come with the command."""
        federation = picture.federation
        if federation.release is None:
            return []
        measured = measure(*scored_worst(self.store, picture.row["run"], best), [])
        tasks = [] if "heads" in federation.method.keeps else sorted(federation.tasks)
        return list(missed(federation, measured, tasks))

    def agreement_page(self) -> dict[str, Any]:
        """What `agreement.html` shows."""
        nodes, _ = self.nodes()
        rows = tables.institutions(None, nodes, self._departures, {})
        known = {row["name"]: row for row in rows}
        invited = Invitations(self.home.enrolment_database).open()
        try:
            current, wrong = load_federation(self.home.federation_file), ""
        except ConfigError as error:
            current, wrong = None, str(error)
        names = [*(current.rounds.institutions if current else ()), *known, *invited]
        said = words(self.home)
        members = []
        for name in dict.fromkeys(names):
            row = known.get(name) or {"name": name, "status": "invited" if name in invited else "not enrolled"}
            approved = current is not None and name in said and current.digest in said[name].approved
            members.append(
                {"tone": tables.TONES.get(row["status"], "calm"), "fingerprint": None, "enrolled": False}
                | row
                | {"word": "approved" if approved else "has not said", "invited": _moment(invited.get(name))}
            )
        offer = offered(self.home)
        return {
            "rows": members,
            "wrong": wrong,
            "agreed": current
            and {
                "digest": current.digest,
                "name": current.name,
                "backbone": current.backbone.name,
                "method": current.method_name,
                "rounds": current.rounds.count,
                "quorum": current.rounds.quorum,
                "institutions": len(current.rounds.institutions),
                "epsilon": current.privacy.epsilon if current.privacy else None,
                "secure": current.secure_aggregation is not None,
                "tasks": [f"{name} ({spec.type})" for name, spec in current.tasks.items()],
            },
            "offer": offer
            and {
                "digest": offer.digest,
                "changes": describe_changes(current, offer) if current else [],
                "ready": (stands := standing(self.home, offer)).ready,
                **asdict(stands),
            },
            "days": look(self.home),
            "sizes": sizes(self.home),
        }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))
