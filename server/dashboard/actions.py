"""What an operator may have done from the page: what is asked before, and which function does it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from server import agreement
from server.enrolment import members
from server.home import ServerHome
from server.runs import steering
from shared.errors import ConfigError, shown

Given = Mapping[str, str]
"""The fields of a form or of an address: `run`, `name`, `rounds`, `word`."""


@dataclass(frozen=True)
class Action:
    """One of them."""

    question: Callable[[Given], dict[str, Any]]
    """What the page that asks says; see `shared.page.site.Site.confirm`."""
    act: Callable[[ServerHome, Given], str]
    """Does it; says what came of it."""
    back: Callable[[Given], str] = lambda given: _run_page(given)
    """The page that is shown then."""


def _run_page(given: Given) -> str:
    run = given.get("run", "")
    return f"/runs/{run}" if run.isalnum() else "/"


def _of_run(question: str, text: str, verb: str) -> Callable[[Given], dict[str, Any]]:
    def ask(given: Given) -> dict[str, Any]:
        run = given.get("run", "")
        named = {"question": question.format(shown(run)), "text": text, "verb": verb}
        return {**named, "fields": {"run": run}, "back": _run_page(given)}

    return ask


def _start(home: ServerHome, given: Given) -> str:
    queued = steering.start(home.root)
    return f"Run {queued.run_id} is queued."


def _resume(home: ServerHome, given: Given) -> str:
    queued = steering.resume(home.root, given.get("run") or None)
    return f"Run {queued.run_id} continues. {queued.note or ''}".strip()


def _extend(home: ServerHome, given: Given) -> str:
    rounds = given.get("rounds", "")
    if not (rounds.isascii() and rounds.isdigit() and 0 < int(rounds[:7]) <= 100_000):
        raise ConfigError(f"Expected how many rounds more, a number from 1 to 100000, not {shown(rounds)}.")
    digest, _ = agreement.extend(home, int(rounds))
    return f"Offered {digest[:12]}..., with {rounds} rounds more: once all have approved it, go on with the run."


def _revoke(home: ServerHome, given: Given) -> str:
    name = given.get("name", "")
    if given.get("word") != name:
        raise ConfigError(f"Expected {shown(name)} to be typed, not {shown(given.get('word', ''))}.")
    node = members.revoke(home, name)
    return f"Revoked {name}: its key {node.fingerprint} is refused from now on, under any name."


ACTIONS: Mapping[str, Action] = {
    "start": Action(
        lambda given: {
            "question": "Start a run?",
            "text": "It is queued under the agreement in force, or under the offered one if all have approved that.",
            "verb": "Start",
        },
        _start,
        lambda given: "/",
    ),
    "pause": Action(
        _of_run("Pause run {}?", "It ends its round and then waits until it is resumed.", "Pause"),
        lambda home, given: steering.pause(home.root, given.get("run") or None),
    ),
    "unpause": Action(
        _of_run("Let run {} go on?", "It does not pause at the end of its round.", "Go on"),
        lambda home, given: steering.unpause(home.root, given.get("run") or None),
    ),
    "resume": Action(
        _of_run("Resume run {}?", "It goes on after its last checkpoint.", "Resume"),
        _resume,
    ),
    "extend": Action(
        lambda given: {
            "question": "Offer more rounds?",
            "text": "Institutions are offered the agreement in force with more rounds, in the place of what is offered "
            "now. Nothing changes until all of them have approved it.",
            "verb": "Offer",
            "numbers": {"rounds": "How many rounds more"},
        },
        _extend,
        lambda given: "/agreement",
    ),
    "stop": Action(
        _of_run("Stop run {}?", "It ends now. Its last checkpoint is kept, and it can be resumed from there.", "Stop"),
        lambda home, given: steering.stop(home.root, given.get("run") or None),
    ),
    "revoke": Action(
        lambda given: {
            "question": f"Revoke {shown(given.get('name', ''))}?",
            "text": "It is cut off at once and for ever, in the middle of a round too; its key is never enrolled "
            "again.\nThe agreement still names it: `collegium server remove` offers one without it.",
            "verb": "Revoke",
            "fields": {"name": given.get("name", "")},
            "word": given.get("name", ""),
            "back": "/agreement",
        },
        _revoke,
        lambda given: "/agreement",
    ),
}
