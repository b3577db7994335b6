"""A Grid whose institutions answer on Flower's own Simulation Runtime: in actors of Ray, here or on a cluster.

Ray gives a message to whichever actor is idle (`actor`). Replies are handed on in the order in which one process would
work on them: sums are the same to the bit where an actor has as many threads as the process.
"""

import json
import logging
import os
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from shared.errors import ConfigError, ProcessError, plain
from shared.flower.constants import SUPERLINK_NODE_ID, ErrorCode
from shared.flower.messages import Run, TaskIdentity
from shared.flower.simulation import (
    FLWR_IN_MEMORY_DB_NAME,
    HEARTBEAT_INTERVAL_INF,
    NOOP_FEDERATION_ID,
    InMemoryLinkState,
    LinkStateFactory,
    NoOpFederationManager,
    ObjectStoreFactory,
    RunRecord,
    Task,
    VceMetrics,
    start_vce,
)
from simulations.engine import VirtualGrid
from simulations.engine.actor import InstitutionApp
from simulations.experiment import Experiment

RUN_ID = TASK_ID = 1
FOREVER = 10.0 * 365 * 24 * 3600
"""Seconds until a message expires: nobody is late in a simulation."""
AHEAD = 64
"""Messages that Flower is given at a time: it looks through all of them for each of its nodes, ten times a second."""
PAUSE_SECONDS = 0.02
"""Between two looks for replies."""
FILE = "experiment.json"


class ClusterGrid(VirtualGrid):
    """Delivers messages through Flower's state in memory, from which its Simulation Runtime takes them.

    Args:
        names: Of the institutions.

    Raises:
        ProcessError: From `pull_messages`, where the runtime, or an actor, has ended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = TASK_ID, RUN_ID, SUPERLINK_NODE_ID
        self._run = Run.create_empty(run_id=RUN_ID)
        self._run.primary_task_id, self._run.federation_id = TASK_ID, NOOP_FEDERATION_ID
        self._factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
        state = self._factory.state()
        assert isinstance(state, InMemoryLinkState)
        self._state = state
        state.run_ids[RUN_ID] = RunRecord(run=self._run)
        state.task_store[TASK_ID] = Task(task_id=TASK_ID, run_id=RUN_ID)
        self._names = {self._register(): name for name in names}
        self._coming: set[str] = set()
        self._waiting: deque[Message] = deque()
        self._given: set[str] = set()
        self._replies: dict[str, Message] = {}
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._runtime: threading.Thread | None = None

    def start(self, app: ClientApp, workers: int | None) -> None:
        """Have Flower start Ray, or join the cluster that RAY_ADDRESS names, and answer with this app.

        Args:
            app: Of every institution; its node's partition is the institution's place.
            workers: Actors, on this machine; one for each of Ray's processors if None.
        """
        arguments = {"log_to_driver": False, "logging_level": "error", **({"num_cpus": workers} if workers else {})}
        config = {"init_args": arguments, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        self._runtime = threading.Thread(target=self._serve, args=(app, json.dumps(config)), daemon=True)
        self._runtime.start()

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        self._over.set()
        if self._runtime:
            self._runtime.join()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their identifiers."""
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            message.metadata.ttl = FOREVER
            self._waiting.append(message)
            identifiers.append(message.metadata.message_id)
        self._coming |= set(identifiers)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Wait for the reply to the first message among `message_ids` that has one to come, and return it."""
        for identifier in message_ids:
            if identifier in self._coming:
                self._coming.discard(identifier)
                while identifier not in self._replies:
                    self._go_on()
                return [self._replies.pop(identifier)]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver all messages."""
        return [reply for identifier in self.push_messages(messages) for reply in self.pull_messages([identifier])]

    def _register(self) -> int:
        node = self._state.create_node("", "", secrets.token_bytes(32), heartbeat_interval=HEARTBEAT_INTERVAL_INF)
        self._state.acknowledge_node_heartbeat(node, HEARTBEAT_INTERVAL_INF)
        return node

    def _serve(self, app: ClientApp, config: str) -> None:
        try:
            start_vce(
                backend_name="ray",
                backend_config_json_stream=config,
                app_dir="",
                is_app=False,
                f_stop=self._over,
                run=self._run,
                metrics=VceMetrics(),
                client_app=app,
                state_factory=self._factory,
                existing_nodes_mapping={node: place for place, node in enumerate(self._names)},
            )
        except BaseException as error:
            self._failure = error
        finally:
            self._over.set()

    def _go_on(self) -> None:
        """Give Flower what it has room for, and take the replies that are there."""
        while self._waiting and len(self._given) + len(self._replies) < AHEAD:
            message = self._waiting.popleft()
            self._state.store_message_ins(message)
            self._given.add(message.metadata.message_id)
        replies = self._state.get_message_res(set(self._given), RUN_ID)
        self._state.delete_messages({reply.metadata.reply_to_message_id for reply in replies})
        for reply in replies:
            if reply.has_error() and reply.error.code != ErrorCode.CLIENT_APP_RAISED_EXCEPTION:
                raise ProcessError(f"Expected Ray's actors to answer until the run ends, but one ended: {_said(reply)}")
            self._given.discard(reply.metadata.reply_to_message_id)
            self._replies[reply.metadata.reply_to_message_id] = reply
        if self._over.is_set():
            why = plain(str(self._failure.__cause__ or self._failure)) if self._failure else "it was stopped"
            raise ProcessError(f"Expected Flower's Simulation Runtime to run until the run ends, but it ended: {why}")
        if not replies:
            time.sleep(PAUSE_SECONDS)


@contextmanager
def open_cluster(experiment: Experiment, folder: Path, workers: int | None = None) -> Iterator[ClusterGrid]:
    """The Grid on which an experiment's institutions answer in actors of Ray, which ends with the block.

    Args:
        experiment: Loaded; its data must lie under the same paths on every machine of a cluster.
        folder: Where actors find the experiment; on a cluster a folder that all machines have.
        workers: Actors, where Ray is started here; one for each processor that Ray has if None.

    Raises:
        ConfigError: Ray is not installed, or the experiment needs institutions that stay in one process.
    """
    check_cluster(experiment)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray phones home unless configured otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and else warns of what it will do one day
    file = folder / FILE
    file.write_text(experiment.model_dump_json(), encoding="utf-8")
    grid = ClusterGrid(list(experiment.institutions))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    grid.start(InstitutionApp(file.resolve()), workers)
    try:
        yield grid
    finally:
        grid.close()


def check_cluster(experiment: Experiment) -> None:
    """Raise ConfigError where institutions cannot answer in actors of Ray."""
    if find_spec("ray") is None:
        raise ConfigError(
            "Expected Ray for --backend ray, but it is not installed; run `pip install 'collegium[ray]'`, or leave "
            "--backend out to stay on this machine's own processes."
        )
    if experiment.federation.secure_aggregation:
        raise ConfigError(
            "Expected an experiment without [secure_aggregation] for --backend ray: its institutions move from process "
            "to process, and secrets of a round never leave the one in which they were made; leave --backend out."
        )


def _said(reply: Message) -> str:
    return plain(reply.error.reason or f"Flower's error {reply.error.code}")
