"""Flower's SuperLink behind two doors: `python -m server.service.superlink --home DIR`.

Flower serves its Control, Runtime and Fleet interfaces on one port, and whoever reaches that port may submit runs.
Here one server listens on two ports, and the port that a request came in by decides what it may reach:

    public door     institutions; TLS; /health*, and /v1/fleet/* as far as `server.door` lets a node speak
    operator door   127.0.0.1 only; TLS; all but the fleet, with the operator token; /v1/runtime/* and /health* without,
                    because Flower protects the former with its SuperExec secret and task tokens; /page/* with a cookie,
                    /metrics with a token of its own
"""

import argparse
import asyncio
import hmac
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.agreement import Offers
from server.dashboard.address import ROOT as PAGE
from server.dashboard.app import coordinator_page
from server.door.allowances import Allowances
from server.door.authentication import Authenticator
from server.door.crowd import Crowd
from server.door.delivery import Deliveries
from server.door.fleet import Fleet
from server.door.limits import MessageLimits
from server.door.public import FleetJudge, as_judged, public_door, refuse_connection
from server.door.records import Records
from server.door.refusals import FewLines, NoRoutine
from server.door.serving import DoorServer
from server.door.speech import Speech
from server.home import ServerHome, ServerSettings, open_home, read_settings
from server.service.inside import PREFIX, Inside
from server.service.listeners import open_listeners
from server.service.operator import node_of
from server.watching.door import MetricsDoor
from server.watching.health import Health
from server.watching.metrics import AtTheDoor
from shared.errors import LONGEST_LINE, CollegiumError, ConfigError, StoreError, plain
from shared.flower.constants import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE, NodeStatus, console_handler
from shared.flower.superlink import (
    NodeAuthMiddleware,
    NoOpControlAuthnPlugin,
    SuperLinkLifespan,
    SuperLinkLifespanConfig,
    create_app,
    get_uvicorn_log_config,
    load_superexec_auth_secret,
)
from shared.process.carrying import Handlers
from shared.process.files import private_folder, private_umask
from shared.process.flower import flower_environment
from shared.process.machine import machine_errors
from shared.process.parent import tell_parent
from shared.process.waiting import Bell

SHUTDOWN_SECONDS = 2
OPEN_FILES = 65536

# Whole paths, after percent-decoding: no dots, no double slashes, nothing to normalise differently further in.
RUNTIME_PATH = re.compile(r"/v1/runtime/[a-z-]+")
FLEET_PREFIX = "/v1/fleet/"


def operator_door(app: ASGIApp, token: str, inside: ASGIApp, page: ASGIApp) -> ASGIApp:
    """The coordinator's own door: everything but the fleet for who shows the token, 401 otherwise.

    Args:
        app: Flower's SuperLink.
        token: Expected as `Authorization: Bearer TOKEN`; compared in constant time.
        inside: Answers what is not Flower's; see `Inside`.
        page: The page for people, which asks for the token in its own way (`shared.page.guard`).
    """
    expected = f"Bearer {token}".encode("latin-1")

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await refuse_connection(scope, send)
        if scope["path"] == PAGE or scope["path"].startswith(f"{PAGE}/"):
            return await page(scope, receive, send)
        open_to_all = RUNTIME_PATH.fullmatch(scope["path"])
        shown = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if not open_to_all and not hmac.compare_digest(shown, expected):
            return await _answer(401, "Not authenticated", scope, receive, send)
        if scope["path"].startswith(FLEET_PREFIX):  # nobody would check a node's signature here
            return await _answer(404, "Not Found", scope, receive, send)
        if scope["path"].startswith(PREFIX):
            return await inside(scope, receive, send)
        await app(as_judged(scope), receive, send)

    return door


def two_doors(app: ASGIApp, public: ASGIApp, operator: ASGIApp, *, operator_port: int) -> ASGIApp:
    """Both doors as one application: a request from any port but the operator's meets the public door.

    Args:
        app: Flower's SuperLink.
        public: See `public_door`.
        operator: See `operator_door`.
        operator_port: The local port of the socket that only this machine can reach.
    """

    async def doors(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        # The socket's own address as the kernel tells it, not a header.
        server = scope.get("server")
        door = operator if server is not None and server[1] == operator_port else public
        await door(scope, receive, send)

    return doors


def create_superlink(home: ServerHome, settings: ServerSettings) -> FastAPI:
    """Flower's SuperLink, configured as `flower-superlink` would be.

    Enrolled nodes only, a database file and process isolation: with these a killed SuperLink does not fail the run.

    Raises:
        ConfigError: A certificate or secret cannot be read.
        StoreError: The database cannot be opened.
    """
    private_folder(home.state)
    certificates = (home.ca_certificate, home.server_certificate, home.server_key)
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=settings.public_host,
        port=settings.public_port,
        insecure=False,
        certificates=tuple(path.read_bytes() for path in certificates),  # type: ignore[arg-type]
        superexec_auth_secret=load_superexec_auth_secret(str(home.superexec_secret_file)),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(home.ca_certificate),
        ssl_certfile=str(home.server_certificate),
        ssl_keyfile=str(home.server_key),
        database=str(home.superlink_database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    try:
        app = create_app(config, SuperLinkLifespan)
        _deliver_whole(app)
    except SQLAlchemyError as error:
        raise StoreError(
            f"Expected Flower's database in {home.superlink_database}, but it cannot be used ({type(error).__name__}); "
            "check that the disk has space and that you own the file, or restore it from your copy of the folder."
        ) from None
    # The public door has verified a node's signature before it lets a request in; a second time would cost as much.
    again = cast(object, NodeAuthMiddleware)
    app.user_middleware[:] = [entry for entry in app.user_middleware if entry.cls is not again]
    return app


@dataclass(frozen=True)
class Doors:
    """What stands before a SuperLink."""

    public: ASGIApp
    operator: ASGIApp
    crowd: Crowd
    """The public socket's connections."""
    bell: Bell
    """Closed when requests are not to be held any more."""


def doors_of(app: FastAPI, home: ServerHome, settings: ServerSettings) -> Doors:
    """The doors of this SuperLink, which ask the database that it works on."""
    state: Deliveries = app.state.linkstate_factory.state()
    records, crowd, allowances = Records(state), Crowd(), Allowances()
    fleet = Fleet(state, Offers(home), records.name_of)
    state.cut = crowd.expel
    authenticator = Authenticator(records, body_signature=settings.require_body_signature)
    speech = Speech(records, MessageLimits(settings.max_message_bytes))
    inside = Inside(state, records, allowances)

    def at_the_door() -> AtTheDoor:
        known = [info for info in state.get_node_info() if info.status != NodeStatus.UNREGISTERED]
        return AtTheDoor([node_of(info) for info in known], allowances.report(), ready=not health.obstacles())

    health = Health(home, lambda: inside.superexec_asked, records.has_task)
    metrics = MetricsDoor(home, at_the_door)
    operator = operator_door(inside.around(app), home.operator_token, inside, coordinator_page(home))
    return Doors(
        health.before(public_door(FleetJudge(authenticator, speech, crowd, allowances), fleet.answer), reasons=False),
        health.before(metrics.before(operator), reasons=True),
        crowd,
        state.bell,
    )


def serve(home: ServerHome) -> None:
    """Serve both doors until SIGTERM or SIGINT.

    Raises:
        ConfigError: The folder or its settings are wrong.
        ConnectionFailedError: A port is taken.
        StoreError: The database cannot be opened.
    """
    settings = read_settings(home)
    listeners = open_listeners(settings)
    _allow_many_sockets()
    with machine_errors():
        app = create_superlink(home, settings)
    doors = doors_of(app, home, settings)
    try:
        config = uvicorn.Config(
            two_doors(app, doors.public, doors.operator, operator_port=settings.operator_port),
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            ssl_certfile=home.server_certificate,
            ssl_keyfile=str(home.server_key),
            log_config=_log_config(),
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        config.load()
    except OSError as error:
        raise ConfigError(
            f"Expected a certificate and its key in {home.server_certificate} and {home.server_key}, but TLS refuses "
            f"them ({error.strerror}); restore both from your copy of the folder."
        ) from None
    asyncio.run(DoorServer(config, doors.crowd, doors.bell).serve(sockets=listeners))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.service.superlink", description="Flower's SuperLink, two doors"
    )
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="the coordinator's folder")
    root: Path = parser.parse_args(arguments).home
    private_umask()
    # uvicorn stops on the first signal, then raises it again here.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        with machine_errors():
            home = open_home(root)
        os.environ.update(flower_environment(home.flower))
        serve(home)
    except CollegiumError as error:
        print(f"error: {plain(str(error), LONGEST_LINE)}", file=sys.stderr, flush=True)
        tell_parent(error)
        return 1
    return 0


def _deliver_whole(app: FastAPI) -> None:
    factory = app.state.linkstate_factory
    state = Deliveries(factory, Bell())
    state.initialize()
    factory.state_instance = state
    app.state.runtime_handlers = Handlers(app.state.runtime_handlers, state.together)


def _allow_many_sockets() -> None:
    """As many open files as the system lets this process have; the doors' own limits are far below."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))


def _log_config() -> dict[str, Any]:
    """Flower's, with the door's own lines, no answers that are as they should be, and few of others.

    That is, few lines a minute of what anybody can cause.
    """
    console_handler.colored = False  # a file is no terminal
    config = get_uvicorn_log_config(console_handler.level)
    config["filters"] |= {"few": {"()": FewLines}, "no-routine": {"()": NoRoutine}}
    for handler in config["handlers"].values():
        handler["filters"] = [*handler.get("filters", ()), "no-routine", "few"]
    config["loggers"]["server.door"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config


def _stop(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


async def _answer(status: int, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    await JSONResponse({"detail": detail}, status_code=status, headers=headers)(scope, receive, send)


if __name__ == "__main__":
    sys.exit(main())
