"""The Flower ClientApp: three thin handlers over one warm `Site`.

The same app serves the resident executor, stock `flwr-clientapp` and the simulator; only the way to the site differs.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.agreement.approval import take_up
from client.institution import load_institution
from client.leaving import gate
from client.leaving.receipts import Receipts
from client.opening import open_site
from client.policy import offered
from client.service.once import OneRound
from client.site import NO_RECEIPT, Site
from shared.errors import CollegiumError, ConfigError, StoreError, loggable
from shared.process.files import private_umask
from shared.process.machine import machine_errors
from shared.protocol import (
    SPOKEN,
    ConfirmRequest,
    EvaluateRequest,
    MaskRequest,
    OpenRequest,
    QueryRequest,
    Refusal,
    Reply,
    Request,
    SharesRequest,
    TrainRequest,
    UnmaskRequest,
    decode,
    encode,
    version_of,
)

log = logging.getLogger("collegium.client")
CANNOT_OPEN = "The site could not open its configuration, its data or its model; its own log says why."
INSTITUTION_VARIABLE = "COLLEGIUM_INSTITUTION"
"""Environment variable that names this process's institution.toml; a node's configuration may name it as well."""
_sites: dict[Path, Site] = {}
_opening = Lock()
TURN, TURN_SECONDS = "turn.lock", 0.05
"""Beside the ledger that several executors share; and between two tries to take the turn."""
Renewed = Callable[[Context, Site, str], Site]
Answered = Callable[[Site | None, Request | None, Reply], None]


def build_app(
    site_of: Callable[[Context], Site],
    renewed: Renewed = lambda context, site, digest: site,
    alone: Callable[[Context], AbstractContextManager[None]] = lambda context: nullcontext(),
    answered: Answered = lambda site, request, reply: None,
) -> ClientApp:
    """A ClientApp whose handlers answer.

    Args:
        site_of: Finds the site.
        renewed: The site as it is to be for a request under the agreement of this digest.
        alone: Lasts while a request is worked on; the executors of one institution take turns in it.
        answered: Told the site, the request and the answer before that leaves; None for a site or request that there
            is not.
    """
    client_app = ClientApp()

    def handle(message: Message, context: Context, *kinds: type[Request]) -> Message:
        run = str(context.run_id)
        reply: Reply
        site, request = None, None
        try:
            site = site_of(context)
        except Exception as error:  # it may quote a path, which stays here, or a record, which stays out of the log
            log.error("this site cannot answer: %s", loggable(error), exc_info=error)
            reply = Refusal(institution="", kind="failure", reason=CANNOT_OPEN)
            _record_unopened(reply, context)
        else:
            try:
                request = decode(message.content, *kinds)
                if request.spec_digest != site.federation.digest:
                    site = renewed(context, site, request.spec_digest)
                with alone(context):
                    reply = site.answer(request, run=run)
            except Exception as error:
                reply = site.refuse(error, run=run)
        answered(site, request, reply)
        return Message(encode(reply, version_of(message.content) or SPOKEN[0]), reply_to=message)

    @client_app.query()
    def query(message: Message, context: Context) -> Message:
        return handle(message, context, QueryRequest, SharesRequest, OpenRequest, ConfirmRequest, UnmaskRequest)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        return handle(message, context, TrainRequest, MaskRequest)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return handle(message, context, EvaluateRequest)

    return client_app


def site_of_process(context: Context | None = None) -> Site:
    """The site that this process serves, loaded once.

    Raises:
        ConfigError: Neither the node's configuration nor the environment names an institution.toml.
    """
    path = _institution_file(context)
    with _opening:
        if path not in _sites:
            private_umask()  # stock `flwr-clientapp` starts this process
            _sites[path] = open_site(path)
        return _sites[path]


def renewed_site(context: Context, site: Site, digest: str) -> Site:
    """The site opened anew, if this is the digest of another agreement that its operator has approved meanwhile.

    Raises:
        CollegiumError: It cannot be opened under that; the next request tries again.
    """
    path = _institution_file(context)
    if not take_up(load_institution(path), digest):
        return site
    log.info("the agreement %s is in force", digest)
    _sites.pop(path, None)
    return site_of_process(context)


@contextmanager
def turn(context: Context) -> Iterator[None]:
    """The turn of this process among those of the institution: one request at a time, over all federations."""
    institution = load_institution(_institution_file(context))
    if institution.runtime.ledger is None:  # of one federation alone
        yield
        return
    file = institution.runtime.ledger.with_name(TURN)
    with machine_errors():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stream = file.open("a")
    with stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(TURN_SECONDS)  # where an executor that is stopped can be interrupted
        yield


def _institution_file(context: Context | None) -> Path:
    named = (context.node_config.get("institution") if context else None) or os.environ.get(INSTITUTION_VARIABLE)
    if not named:
        raise ConfigError(
            "Expected the node's configuration to name an institution file, but it does not; start the site with "
            "`collegium client up institution.toml`, or pass --node-config 'institution=\"/path/institution.toml\"'."
        )
    return Path(str(named))


def _record_unopened(reply: Refusal, context: Context) -> None:
    """A receipt of what a site says that cannot be opened, if as much as its key and its state folder are known."""
    try:
        institution = load_institution(_institution_file(context))
        receipts = Receipts(institution.runtime.state, institution.identity.key)
        receipts.append(gate.describe(reply, federation=None, run=str(context.run_id)))
    except CollegiumError as error:
        log.error("there is no receipt of this refusal: %s", error)


def record_error(reason: str, run: int) -> str:
    """What may leave as the reason of an error, once there is a receipt of it: see `client.service.executor`."""
    return receipted(site_of_process(), reason, str(run))


def receipted(site: Site, reason: str, run: str) -> str:
    """The reason of an error of Flower's once it has a receipt; a sentence that says so where it cannot have one."""
    try:
        if site.receipts is not None:
            site.receipts.append(gate.describe_error(reason, federation=site.federation, run=run))
    except StoreError as error:
        log.error("nothing leaves: %s", error)
        return NO_RECEIPT
    return reason


def warm() -> Site:
    """Load model and data before the first message."""
    return site_of_process()


def app_of_process(once: OneRound | None = None) -> ClientApp:
    """The ClientApp of this process; one that is to answer one round has it followed."""

    def answered(site: Site | None, request: Request | None, reply: Reply) -> None:
        if once:
            scores = site is not None and announces_validation(site)
            once.answered(request, reply, scores=scores, masks=bool(site and site.federation.secure_aggregation))

    return build_app(site_of_process, renewed_site, turn, answered)


def announces_validation(site: Site) -> bool:
    """Whether the coordinator hears of records that choose the round: only who has some is asked to score."""
    shown = offered(site.policy, site.holdings.owners)
    return any(split == "validation" and split in shown[task] for task, splits in site.data.items() for split in splits)


app = app_of_process()
