"""A Flower Grid in one process: no sockets, one frozen backbone for all virtual institutions.

`workers` spreads the same over several processes.

The round loop, the ClientApp, the messages and the trainer are those of a deployment; only the transport differs.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from client.app import build_app
from client.site import Site
from server.rounds import loop as rounds
from server.store import Store
from shared.codec import Arrays
from shared.federation import Federation
from shared.flower.constants import ErrorCode
from shared.flower.messages import NodeInfo, Run, TaskIdentity

RUN_ID = 1
SERVER_NODE = 1
FIRST_NODE = 100


class VirtualGrid(Grid):
    """What Grids over virtual institutions have in common: who there is, and the run that messages belong to."""

    _names: Mapping[int, str]
    _run: Run

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message from the coordinator to a virtual institution."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All virtual institutions."""
        return list(self._names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """All virtual institutions, by name, online."""
        return [NodeInfo(node_id=node, name=name, status="online") for node, name in self._names.items()]


class LocalGrid(VirtualGrid):
    """Delivers each message by calling the ClientApp; a message is worked on when its reply is pulled.

    Working on one message per pull keeps one reply in memory at a time, whatever the number of institutions.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = RUN_ID, RUN_ID, SERVER_NODE
        self._names = dict(enumerate(sites, start=FIRST_NODE))
        self._sites = {node: sites[name] for node, name in self._names.items()}
        self._contexts = {
            node: Context(run_id=RUN_ID, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in self._names
        }
        self._app: ClientApp = build_app(lambda context: self._sites[context.node_id])
        self._pending: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=RUN_ID)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their identifiers."""
        identifiers = []
        for message in messages:
            identifier = uuid.uuid4().hex  # Flower's is a hash of all that is in it
            message.metadata.__dict__["_message_id"] = identifier
            self._pending[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Work on the first queued message among `message_ids` and return its reply."""
        for identifier in message_ids:
            if (message := self._pending.pop(identifier, None)) is not None:
                return [self._deliver(message)]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver all messages, one after the other."""
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # an institution's fault must look as it does in a deployment: an error reply
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def run_federation(
    sites: Mapping[str, Site], federation: Federation, initial: Arrays, store: Store, announce: Callable[[str], None]
) -> str:
    """Run a federation from its first round to its last in this process; the id of the run in the store."""
    return run_on(LocalGrid(sites), federation, initial, store, announce)


def run_on(
    grid: Grid,
    federation: Federation,
    initial: Arrays,
    store: Store,
    announce: Callable[[str], None] = lambda _: None,
    run_id: str | None = None,
) -> str:
    """Run a federation whose institutions answer on this Grid, or go on with a run; its id in the store."""
    run_id = run_id or store.create_run(federation)
    rounds.run(
        grid,
        federation=federation,
        store=store,
        run_id=run_id,
        initial_state=initial,
        announce=announce,
        poll_seconds=0.0,
    )
    return run_id
