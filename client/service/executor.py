"""The resident executor: one warm process that answers every message with the code installed at the site.

Stock Flower starts a process per message, which unpacks and runs the bundle that the coordinator pushed. This process
speaks the same protocol to the SuperNode instead, as `flower-superexec` and `flwr-clientapp` together do, but calls a
`ClientApp` that it was given. The bundle arrives and is dropped. A contract test holds the two equal.

What differs from `flwr-clientapp`, on purpose: an error costs one task and never the process, where Flower raises
SIGINT in itself; an exception's text stays in the local log; a stop interrupts the task at hand and says so in the
reply.
"""

import argparse
import ctypes
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from client.service.once import OneRound, SaysItIsOver
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, loggable
from shared.flower.constants import (
    HEARTBEAT_BASE_MULTIPLIER,
    HEARTBEAT_CALL_TIMEOUT,
    HEARTBEAT_DEFAULT_INTERVAL,
    ErrorCode,
    SubStatus,
    TaskType,
)
from shared.flower.http import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from shared.flower.messages import AcquireTaskRequest, AcquireTaskResponse, SendTaskHeartbeatRequest
from shared.flower.runtime import (
    RetryInvoker,
    RuntimeHttpClient,
    RuntimeTokenHttpInterceptor,
    RuntimeTracingInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
    exponential,
    pull_and_inflate_object_from_tree,
    pull_task_input,
    push_message,
    push_task_output,
    run_clientapp,
)
from shared.process.carrying import Carrier
from shared.process.files import private_umask
from shared.process.machine import machine_errors
from shared.process.memory import give_back, keep_few_kernels, loading
from shared.process.parent import tell_parent
from shared.process.proxies import without_proxies
from shared.process.supervisor import run_until_signal
from shared.process.waiting import EXECUTOR_HEADER, HEADER, LONGEST_SECONDS
from shared.watching.logs import set_up

READY = "ready"
"""The line that the daemon waits for."""
USER_ERROR = 2
"""Exit code of an error that a restart does not mend; the daemon gets its sentence."""
STOPPED = "The institution's executor was stopped while it worked on this request."
WITHDRAWN = "The SuperNode no longer waits for this task."

STOP_SECONDS = 1.5  # after SIGTERM; training deep in native code cannot be interrupted sooner
LONGEST_RETRY = 60.0  # seconds; by then the SuperNode has given the task up
LONGEST_WAIT = 5.0
HEARTBEAT_SECONDS = (HEARTBEAT_DEFAULT_INTERVAL - HEARTBEAT_CALL_TIMEOUT) * HEARTBEAT_BASE_MULTIPLIER
TRANSIENT = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})
MOST_REFUSALS = 4
"""In a row; one alone is of a request during which somebody has set the clock."""
REFUSED = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})

# A task is there before its arrays are; Flower waits 1 s before asking again, doubling to 10, though the next process
# has them in milliseconds.
vars(run_clientapp)["pull_and_inflate_object_from_tree"] = partial(
    pull_and_inflate_object_from_tree, initial_backoff=0.02, backoff_cap=0.5
)

log = logging.getLogger("client.service.executor")  # also where `python -m` runs it, and __name__ is another


@dataclass(frozen=True)
class TaskRecord:
    """One task that was served.

    Attributes:
        task_id: Flower's number of the task.
        run_id: Flower's number of the run.
        message_type: `train`, `evaluate` or `query`, with a name after a dot if it has one; empty if no message came.
        seconds: From acquiring the task to its last byte.
        error: What the coordinator got; empty if the task succeeded.
    """

    task_id: int
    run_id: int
    message_type: str
    seconds: float
    error: str


class TaskInterruptedError(BaseException):
    """Raised inside the ClientApp to end it; no `Exception`, so that handlers in the app let it pass."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the executor until SIGTERM.

    Called as `python -m client.service.executor --institution FILE --runtime ADDR --secret-file F`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m client.service.executor", description="Serve one institution's messages."
    )
    parser.add_argument("--institution", type=Path, required=True, help="the site's institution.toml")
    parser.add_argument("--runtime", required=True, metavar="HOST:PORT", help="Runtime API of the SuperNode")
    parser.add_argument("--secret-file", type=Path, required=True, help="SuperExec secret, shared with the SuperNode")
    parser.add_argument("--once", type=float, metavar="SECONDS", help="answer one round; longest wait for a request")
    arguments = parser.parse_args(argv)
    private_umask()
    keep_few_kernels()
    set_up()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll otherwise
    try:
        run_until_signal(
            lambda stop: _run(arguments.institution, arguments.runtime, arguments.secret_file, stop, arguments.once)
        )
    except CollegiumError as error:
        print(f"error: {loggable(error)}", file=sys.stderr, flush=True)  # this is its log
        tell_parent(error)
        return USER_ERROR
    return 0


def _run(
    institution: Path, runtime_address: str, secret_file: Path, stop: threading.Event, once: float | None = None
) -> None:
    threading.Thread(target=_exit_soon_after, args=(stop,), name="last-resort", daemon=True).start()
    try:
        secret = secret_file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected the SuperExec secret in {secret_file}, but it cannot be read ({error.strerror}); "
            "give the file that the SuperNode was started with."
        ) from None
    # Large modules: late, so that a stop is heard meanwhile.
    from client.institution import load_institution

    load_institution(institution)  # what is wrong with it is told before PyTorch is loaded
    with loading():
        from client.app import INSTITUTION_VARIABLE, app_of_process, record_error, warm

    os.environ[INSTITUTION_VARIABLE] = str(institution.resolve())
    with machine_errors():
        warm()
    log.info(READY)
    round = OneRound(once) if once else None
    serve(
        client_app=app_of_process(round),
        runtime_address=runtime_address,
        secret=secret,
        stop=stop,
        on_task=_after_task,
        on_error=record_error,
        once=round,
    )
    if round and not stop.is_set():
        print(round.waited().line(), flush=True)
        stop.wait()


def serve(
    *,
    client_app: ClientApp,
    runtime_address: str,
    secret: bytes,
    poll_seconds: float = 0.05,
    stop: threading.Event,
    on_task: Callable[[TaskRecord], None] | None = None,
    on_error: Callable[[str, int], str] = lambda reason, run: reason,
    once: OneRound | None = None,
) -> None:
    """Serve the SuperNode's tasks, one after the other, in the calling thread until `stop` is set.

    A lost SuperNode is retried for ever, with pauses up to 5 s.

    Args:
        client_app: Answers every message, whatever bundle came with the run.
        runtime_address: The SuperNode's Runtime API as `host:port`; spoken to in plain HTTP, so keep it on loopback.
        secret: The SuperExec secret that the SuperNode was started with: the file's bytes as they are.
        poll_seconds: Between two questions for a task, which the SuperNode may hold until there is one.
        stop: Ends the loop; a task at hand is interrupted and answered with an error.
        on_task: Called after every task.
        on_error: Called with the reason of an error and the run before it leaves; returns what leaves instead.
        once: Follows whether a round was answered: then, and when nobody has asked for long enough, this ends too.

    Raises:
        ConnectionFailedError: The SuperNode does not accept the secret.
    """
    signer = SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
    )
    with _client(runtime_address, signer, _LetsItWait(once)) as client:
        while acquired := _next_task(client, runtime_address, poll_seconds, stop, once):
            record = _serve_task(client_app, runtime_address, acquired, stop, on_error, once)
            if on_task:
                on_task(record)


def _next_task(
    client: RuntimeHttpClient, address: str, poll_seconds: float, stop: threading.Event, once: OneRound | None
) -> AcquireTaskResponse | None:
    """Wait for a task; `None` once `stop` is set, or nobody is to be waited for any longer."""
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    wait = lost = 0.0
    refused = 0
    while not stop.wait(wait):
        if once and once.over:  # the SuperNode tells the daemon
            stop.wait()
            return None
        if once and once.left <= 0:
            return None
        try:
            response = client.AcquireTask(request)
        except httpx.HTTPError as error:
            refused += isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED
            if refused >= MOST_REFUSALS:
                raise ConnectionFailedError(
                    f"Expected the SuperNode at {address} to accept the SuperExec secret, but it refuses it ({error}); "
                    "start both with the same secret file, and check the clock."
                ) from None
            if not lost:
                log.warning("The SuperNode at %s does not answer (%s); trying again until it does", address, error)
            lost = lost or time.monotonic()
            wait = min(max(2 * wait, poll_seconds), LONGEST_WAIT)
            continue
        if lost:
            log.info("The SuperNode answers again after %.1f s", time.monotonic() - lost)
        if response.HasField("task") and response.token:
            return response
        wait, lost, refused = poll_seconds, 0.0, 0
    return None


def _serve_task(
    client_app: ClientApp,
    address: str,
    acquired: AcquireTaskResponse,
    stop: threading.Event,
    on_error: Callable[[str, int], str],
    once: OneRound | None,
) -> TaskRecord:
    """One task from its input to its output, in the order of `flwr-clientapp`."""
    began = pulled = time.monotonic()
    message: Message | None = None
    reply: Message | None = None
    context: Context | None = None
    sub_status, reason = SubStatus.COMPLETED, ""
    token, carrier = RuntimeTokenHttpInterceptor(acquired.token), Carrier(confirms=True)
    with (
        _client(address, carrier, token, SaysItIsOver(once), retry=_retry(stop)) as client,
        _client(address, token) as heartbeats,
        _Watch(heartbeats, stop) as watch,
    ):
        try:
            with watch.interruptible():
                message, context, _run, _bundle = pull_task_input(client)
                pulled = time.monotonic()
                reply = _call(client_app, message, context)
        except (Exception, SystemExit, TaskInterruptedError) as error:
            sub_status, reason = SubStatus.FAILED, on_error(_reason(error, stop), acquired.task.run_id)
            log.error("Task %d failed", acquired.task.task_id, exc_info=error)
            if message:
                reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
        if message and reply and context:
            keep_its_time(reply, message, time.monotonic() - pulled)
            try:
                carrier.offer(reply)
                push_message(client, reply, context)
            except Exception as error:
                sub_status, reason = SubStatus.FAILED, reason or _reason(error, stop)
                log.error("The reply of task %d was not delivered", acquired.task.task_id, exc_info=error)
        push_task_output(client, context=context, sub_status=sub_status, details=reason)
    if once:
        once.task_over()
    return TaskRecord(
        task_id=acquired.task.task_id,
        run_id=acquired.task.run_id,
        message_type=message.metadata.message_type if message else "",
        seconds=time.monotonic() - began,
        error=reason,
    )


def keep_its_time(reply: Message, message: Message, seconds: float) -> None:
    """Have a reply be made so many seconds after its message, and good for as long as that is.

    By the coordinator's clock, which is the message's: by one of this machine's that is wrong it would be out of date.
    """
    of, mine = message.metadata, reply.metadata
    mine.created_at, mine.ttl = of.created_at + seconds, max(of.ttl - seconds, 1.0)


def _call(client_app: ClientApp, message: Message, context: Context) -> Message:
    reply = client_app(message=message, context=context)
    if not isinstance(reply, Message):
        raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
    return reply


def _reason(error: BaseException, stop: threading.Event) -> str:
    """What the coordinator may read of an exception: an arbitrary exception's text can quote private records."""
    if isinstance(error, TaskInterruptedError):
        return STOPPED if stop.is_set() else WITHDRAWN
    if isinstance(error, CollegiumError):
        return f"{type(error).__name__}: {loggable(error)}"
    return type(error).__name__


class _Watch:
    """A thread that sends heartbeats for one task while the `with` block lasts."""

    def __init__(self, client: RuntimeHttpClient, stop: threading.Event) -> None:
        self._client, self._stop = client, stop
        self._over, self._interruptible, self._lock = threading.Event(), False, threading.Lock()
        self._owner = ctypes.c_ulong(threading.get_ident())
        self._thread = threading.Thread(target=self._run, name="task-heartbeat", daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise TaskInterruptedError inside the block on `stop`, and when the SuperNode has withdrawn the task."""
        self._interruptible = True
        try:
            yield
        finally:
            with self._lock:
                self._interruptible = False
            self._raise_in_owner(None)  # takes back one that was sent but has not arrived

    def _run(self) -> None:
        wanted, due = True, 0.0
        while not self._over.wait(0.1):
            if wanted and time.monotonic() >= due:
                beat = self._heartbeat()
                due = time.monotonic() + (1.0 if beat is None else HEARTBEAT_SECONDS)
                wanted = beat is not False
            with self._lock:
                if self._interruptible and (self._stop.is_set() or not wanted):
                    self._interruptible = False
                    self._raise_in_owner(TaskInterruptedError)

    def _raise_in_owner(self, kind: type[BaseException] | None) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(self._owner, kind and ctypes.py_object(kind))

    def _heartbeat(self) -> bool | None:
        """True if the SuperNode still wants the task, False if not, None if it could not be asked."""
        try:
            return self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPStatusError as error:
            return False if error.response.status_code in REFUSED else None
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the task ended and its client was closed meanwhile
            return None


class _LetsItWait:
    """Tells the SuperNode that it may hold a request, and that this is another executor than the last one."""

    def __init__(self, once: OneRound | None) -> None:
        self._name, self._once = secrets.token_hex(8), once

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        seconds = min(LONGEST_SECONDS, max(self._once.left, 0.1)) if self._once else LONGEST_SECONDS
        context.request.headers[HEADER] = f"{seconds:g}"
        context.request.headers[EXECUTOR_HEADER] = self._name
        return call_next(context)


def _client(address: str, *own: ProtobufClientInterceptor, retry: RetryInvoker | None = None) -> RuntimeHttpClient:
    with without_proxies():
        return RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeTracingInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                *own,
            ],
            retry_invoker=retry,
        )


def _retry(stop: threading.Event) -> RetryInvoker:
    """Retry what may pass; Flower's own invoker would never give up, and raises SIGINT when a token has expired."""

    def hopeless(error: Exception) -> bool:
        return stop.is_set() or (
            isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in TRANSIENT
        )

    def wait(seconds: float) -> None:
        stop.wait(seconds)

    return RetryInvoker(
        lambda: exponential(0.1, max_delay=int(LONGEST_WAIT)),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=LONGEST_RETRY,
        should_giveup=hopeless,
        wait_function=wait,
    )


def _exit_soon_after(stop: threading.Event) -> None:
    stop.wait()
    time.sleep(STOP_SECONDS)
    os._exit(0)


def _after_task(record: TaskRecord) -> None:
    outcome = record.error or "done"
    log.info("run %d: %s in %.2f s: %s", record.run_id, record.message_type or "no message", record.seconds, outcome)
    give_back()


if __name__ == "__main__":
    sys.exit(main())
