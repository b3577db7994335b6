"""The coordinator's own commands speak to the running server through this client, by the operator door."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import httpx

from server.enrolment.keys import fingerprint
from server.home import ServerHome, read_settings
from server.service.listeners import OPERATOR_HOST
from server.service.replies import own_requests
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, EnrolmentError
from shared.flower.constants import HEARTBEAT_PATIENCE, NodeStatus
from shared.flower.http import ControlHttpClient, ProtobufCall, ProtobufRequestContext
from shared.flower.messages import (
    Fab,
    ListNodesRequest,
    ListRunsRequest,
    NodeInfo,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
    fab_to_proto,
    user_config_to_proto,
)
from shared.process.proxies import without_proxies

REFUSED_PATH, REPLACE_PATH = "/v1/collegium/refused", "/v1/collegium/replace-key"
"""See `server.service.inside`."""


@dataclass(frozen=True)
class Node:
    """An enrolled institution's node as the server knows it.

    Attributes:
        node_id: Flower's number for it, an unsigned 64-bit integer.
        name: The institution's name in the federation file; empty if it was registered without one.
        status: `registered` (never seen), `online` or `offline`.
        fingerprint: Of its public key, as `ssh-keygen -l` prints it.
        public_key: PEM.
        last_seen: When it was last heard of, in UTC; None if never.
    """

    node_id: int
    name: str
    status: str
    fingerprint: str
    last_seen: datetime | None
    public_key: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True)
class RunStatus:
    """How far Flower is with a run.

    Attributes:
        status: `pending`, `starting`, `running` or `finished`.
        sub_status: When finished: `completed`, `failed` or `stopped`; otherwise empty.
        details: What Flower says about a failure; may be empty.
    """

    status: str
    sub_status: str
    details: str

    @property
    def finished(self) -> bool:
        """Nothing more will happen."""
        return self.status == "finished"

    @property
    def completed(self) -> bool:
        """The run came to its end and did not fail."""
        return self.finished and self.sub_status == "completed"


class OperatorClient:
    """Speaks to a running server as its operator; a context manager.

    Every method raises ConnectionFailedError when the server is not up, is not this folder's, or refuses the token.

    Args:
        home: The coordinator's folder, from which port, certificate and token are read.

    Raises:
        ConfigError: The folder is not complete.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        port = read_settings(home).operator_port
        self._address = f"{OPERATOR_HOST}:{port}"
        try:
            trusted = home.ca_certificate.read_bytes()
            with without_proxies():
                self._client = ControlHttpClient.from_server_address(
                    self._address,
                    insecure=False,
                    root_certificates=trusted,
                    interceptors=[_BearerInterceptor(home.operator_token)],
                )
            self._own = own_requests(home)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"Expected the coordinator's certificate in {home.ca_certificate}, but it cannot be used ({error}); "
                "restore it from your copy of the folder."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._own.close()

    def register_node(self, name: str, public_key: bytes) -> int:
        """Enrol an institution: from now on the server accepts its key.

        Args:
            name: The institution's name in the federation file.
            public_key: PEM, as `server.enrolment.keys.read_public_key` returns it.

        Returns:
            The new node's id.

        Raises:
            EnrolmentError: The name or the key is enrolled already, or the key was revoked.
        """
        for node in self.nodes():
            if node.name == name:
                raise EnrolmentError(
                    f"Expected an institution that is not enrolled yet, but {name!r} is, with key {node.fingerprint}; "
                    "give the new key a name of its own in federation.toml, and enrol it under that."
                )
        with self._translated(f"enrol {name!r}"):
            return self._client.RegisterNode(RegisterNodeRequest(name=name, public_key=public_key)).node_id

    def unregister_node(self, node_id: int) -> None:
        """Revoke a node: its key is refused from now on and for ever.

        Raises:
            EnrolmentError: No such node is enrolled.
        """
        with self._translated(f"revoke node {node_id}"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def replace_key(self, node_id: int, old: bytes, new: bytes) -> None:
        """Give a node another key (both PEM); the old one is refused from now on and for ever.

        Raises:
            EnrolmentError: The old one is not the node's, or the new one was enrolled before.
        """
        body = {"node_id": node_id, "old": old.decode(), "new": new.decode()}
        with self._translated(f"replace the key of node {node_id}"):
            answer = self._own.post(REPLACE_PATH, json=body)
            if answer.status_code == httpx.codes.CONFLICT:
                raise EnrolmentError(
                    "Expected a key that was never enrolled in the place of a node's own, but one of the two is "
                    "otherwise; make a new pair with `collegium client keygen`."
                )
            answer.raise_for_status()

    def nodes(self) -> list[Node]:
        """All enrolled nodes in the order of their enrolment; revoked ones are left out."""
        with self._translated("list the nodes"):
            response = self._client.ListNodes(ListNodesRequest())
        enrolled = [info for info in response.nodes_info if info.status != NodeStatus.UNREGISTERED]
        return [node_of(info) for info in sorted(enrolled, key=lambda info: datetime.fromisoformat(info.registered_at))]

    def start_run(self, fab: bytes, run_config: Mapping[str, str | int | float | bool]) -> int:
        """Start a run.

        Args:
            fab: A Flower bundle, usually `server.bundle.pointer_bundle()`.
            run_config: Values for keys that the bundle declares.

        Returns:
            The run's id.

        Raises:
            ConfigError: The bundle is none, or does not declare one of the keys.
        """
        request = StartRunRequest(
            fab=fab_to_proto(Fab(sha256(fab).hexdigest(), fab, {})),
            override_config=user_config_to_proto(dict(run_config)),
        )
        with self._translated("start a run"):
            response = self._client.StartRun(request)
        if not response.HasField("run_id"):
            raise ConfigError(
                f"Expected the server to accept the run, but it found the bundle of {len(fab)} bytes too large; "
                "send a smaller one."
            )
        return response.run_id

    def run_status(self, run_id: int) -> RunStatus:
        """How far a run is.

        Raises:
            ConfigError: The server knows no such run.
        """
        with self._translated(f"look up run {run_id}"):
            response = self._client.ListRuns(ListRunsRequest(run_id=run_id))
        status = response.run_dict[run_id].status
        return RunStatus(status=status.status, sub_status=status.sub_status, details=status.details)

    def run_log(self, run_id: int) -> Iterator[str]:
        """What the run's ServerApp prints, piece by piece, until the run is finished.

        Flower keeps it in its database only; a ServerApp that cannot even be imported says why here.

        Raises:
            ConfigError: The server knows no such run.
        """
        with self._translated(f"read the log of run {run_id}"):
            for piece in self._client.StreamLogs(StreamLogsRequest(run_id=run_id)):
                yield piece.log_output

    def stop_run(self, run_id: int) -> None:
        """Stop a run; what it has checkpointed stays.

        Raises:
            ConfigError: The server knows no such run, or it is finished.
        """
        with self._translated(f"stop run {run_id}"):
            self._client.StopRun(StopRunRequest(run_id=run_id))

    def refused(self) -> list[dict[str, Any]]:
        """`node_id`, `limit` and `times` of nodes that asked too much since the server was started."""
        with self._translated("list who asked too much"):
            found: list[dict[str, Any]] = self._own.get(REFUSED_PATH).raise_for_status().json()
            return found

    @contextmanager
    def _translated(self, purpose: str) -> Iterator[None]:
        """Turn what can go wrong on the way into one sentence."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise self._refusal(purpose, error.response) from None
        except httpx.HTTPError as error:
            raise self._unreachable(purpose, error) from None

    def _refusal(self, purpose: str, response: httpx.Response) -> CollegiumError:
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return ConnectionFailedError(
                f"Expected the server at {self._address} to accept the token in {self._home.operator_token_file}, but "
                "it refused it; restart `collegium server up` if the token was changed."
            )
        from shared.flower.errors import FlowerError

        refused = FlowerError.from_json(response.text)
        if refused is not None and (known := _refusals().get(refused.code)):
            kind, sentence = known
            return kind(f"Expected to {purpose}, but {sentence}.")
        reason = refused.message.rstrip(".") if refused is not None else f"status {response.status_code}"
        return ConnectionFailedError(
            f"Expected to {purpose}, but the server at {self._address} answered: {reason}; "
            f"look for the cause in {self._home.logs}."
        )

    def _unreachable(self, purpose: str, error: httpx.HTTPError) -> ConnectionFailedError:
        if _caused_by_tls(error):
            return ConnectionFailedError(
                f"Expected this coordinator's server at {self._address} to {purpose}, but what answers there does not "
                f"prove itself with a certificate of {self._home.ca_certificate}; stop the program that uses the port "
                "or change operator_port in server.toml."
            )
        if isinstance(error, httpx.TimeoutException):
            return ConnectionFailedError(
                f"Expected to {purpose}, but the server at {self._address} did not answer in time; "
                f"look for the cause in {self._home.logs}."
            )
        return ConnectionFailedError(
            f"Expected to {purpose}, but no server answers at {self._address}; "
            f"start it with `collegium server up {self._home.root}`."
        )


def _refusals() -> dict[int, tuple[type[CollegiumError], str]]:
    from shared.flower.errors import ApiErrorCode

    return {
        ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE: (
            EnrolmentError,
            "its public key is enrolled under another name or was revoked, and a key is enrolled once only; "
            "have the institution make a new pair with `collegium client keygen`",
        ),
        ApiErrorCode.PUBLIC_KEY_NOT_VALID: (
            EnrolmentError,
            "its public key is not an elliptic-curve key; ask for the .pub file that `collegium client keygen` wrote",
        ),
        ApiErrorCode.NODE_NOT_FOUND: (
            EnrolmentError,
            "no such node is enrolled; `collegium server status` lists those that are",
        ),
        ApiErrorCode.RUN_ID_NOT_FOUND: (
            ConfigError,
            "the server knows no such run; `collegium server status` lists its runs",
        ),
        ApiErrorCode.RUN_ALREADY_FINISHED: (ConfigError, "it is finished already; there is nothing to stop"),
        ApiErrorCode.INVALID_RUN_CONFIG: (
            ConfigError,
            "the server found its bundle or its configuration wrong; give only keys that the bundle declares",
        ),
    }


class _BearerInterceptor:
    """Shows the operator token with every request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


def node_of(info: NodeInfo) -> Node:
    """What Flower's record of a node says."""
    last_seen = None
    if info.status == NodeStatus.ONLINE:
        last_seen = datetime.fromtimestamp(info.online_until - HEARTBEAT_PATIENCE * info.heartbeat_interval, UTC)
    elif info.last_deactivated_at:
        last_seen = datetime.fromisoformat(info.last_deactivated_at)
    return Node(
        node_id=info.node_id,
        name=info.name,
        status=info.status,
        fingerprint=fingerprint(info.public_key),
        last_seen=last_seen,
        public_key=info.public_key,
    )


def _caused_by_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
