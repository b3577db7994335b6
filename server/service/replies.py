"""How the coordinator's own runs wait for replies: by one request, held by the SuperLink until there is one."""

import ssl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from server.home import ServerHome, open_home, read_settings
from server.service.listeners import OPERATOR_HOST
from shared.process.waiting import LONGEST_SECONDS

if TYPE_CHECKING:
    from server.rounds.asking import Look

ANSWERED_PATH = "/v1/collegium/answered"
"""See `server.service.inside`."""
ANSWER_SECONDS = 10.0
"""For an answer, beside the time that it may be held."""
RECONNECT_SECONDS = 1.0


@contextmanager
def replies_held(folder: str | None) -> "Iterator[Look | None]":
    """What waits for replies at the SuperLink that serves a coordinator's folder; None where there is no folder.

    While the SuperLink does not answer, all messages may have been answered, after a pause.
    """
    if folder is None:
        yield None
        return
    with own_requests(open_home(Path(folder))) as http:

        def look(messages: Collection[str], _waited: float, longest: float) -> Collection[str]:
            try:
                return answered(http, messages, longest)
            except httpx.HTTPError:  # it is being started again
                time.sleep(RECONNECT_SECONDS)
                return messages

        yield look


def own_requests(home: ServerHome) -> httpx.Client:
    """A client of the operator door that shows the token."""
    return httpx.Client(
        base_url=f"https://{OPERATOR_HOST}:{read_settings(home).operator_port}",
        headers={"authorization": f"Bearer {home.operator_token}"},
        verify=ssl.create_default_context(cafile=str(home.ca_certificate)),
        trust_env=False,
        timeout=LONGEST_SECONDS + ANSWER_SECONDS,
    )


def answered(http: httpx.Client, messages: Collection[str], seconds: float) -> set[str]:
    """Those of a run's messages that have their answer, an error perhaps; waits up to `seconds` for the first.

    Raises:
        httpx.HTTPError: The SuperLink does not answer, or refuses the token.
    """
    body = {"messages": list(messages), "seconds": seconds}
    return set(http.post(ANSWERED_PATH, json=body).raise_for_status().json())
