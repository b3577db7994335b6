"""Flower's SuperLink behind two doors: `python -m server.superlink --home DIR`.

Flower serves its Control, Runtime and Fleet interfaces on one port, and whoever reaches that port may submit runs.
Here one server listens on two ports, and the port that a request came in by decides what it may reach:

    public door     institutions; TLS; /v1/fleet/* with a node key, and /health
    operator door   127.0.0.1 only; TLS; everything, with the operator token; /v1/runtime/* and /health without,
                    because Flower protects the former with its SuperExec secret and task tokens
"""

import argparse
import asyncio
import hmac
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.home import ServerHome, ServerSettings, open_home, read_settings
from server.listeners import open_listeners
from shared.errors import CollegiumError, ConfigError, StoreError
from shared.flower import flower_environment

SHUTDOWN_SECONDS = 2

# Whole paths, after percent-decoding: no dots, no double slashes, nothing to normalise differently further in.
FLEET_PATH = re.compile(r"/v1/fleet/[a-z-]+")
RUNTIME_PATH = re.compile(r"/v1/runtime/[a-z-]+")
HEALTH_PATH = "/health"


def public_door(app: ASGIApp) -> ASGIApp:
    """The door for institutions: passes `/v1/fleet/*` and `/health`, answers 404 to all else.

    A fleet request that shows no key is answered 401 before its body is read; whether a shown key is enrolled and its
    signature good is Flower's to check.

    Args:
        app: Flower's SuperLink.
    """

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse_connection(scope, send)
        fleet = FLEET_PATH.fullmatch(scope["path"])
        if not fleet and scope["path"] != HEALTH_PATH:
            return await _answer(404, "Not Found", scope, receive, send)
        if fleet and FLEET_HTTP_PUBLIC_KEY_HEADER not in Headers(scope=scope):
            return await _answer(401, "Invalid SuperNode authentication", scope, receive, send)
        await app(_as_judged(scope), receive, send)

    return door


def operator_door(app: ASGIApp, token: str) -> ASGIApp:
    """The coordinator's own door: everything for who shows the token, 401 otherwise.

    Args:
        app: Flower's SuperLink.
        token: Expected as `Authorization: Bearer TOKEN`; compared in constant time.
    """
    expected = f"Bearer {token}".encode("latin-1")

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse_connection(scope, send)
        open_to_all = RUNTIME_PATH.fullmatch(scope["path"]) or scope["path"] == HEALTH_PATH
        shown = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if not open_to_all and not hmac.compare_digest(shown, expected):
            return await _answer(401, "Not authenticated", scope, receive, send)
        await app(_as_judged(scope), receive, send)

    return door


def two_doors(app: ASGIApp, *, operator_port: int, token: str) -> ASGIApp:
    """Both doors as one application: a request from any port but the operator's meets the public door.

    Args:
        app: Flower's SuperLink.
        operator_port: The local port of the socket that only this machine can reach.
        token: See `operator_door`.
    """
    public, operator = public_door(app), operator_door(app, token)

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
    home.state.mkdir(exist_ok=True)
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
        return create_app(config, SuperLinkLifespan)
    except SQLAlchemyError as error:
        raise StoreError(
            f"Expected Flower's database in {home.superlink_database}, but it cannot be used ({type(error).__name__}); "
            "check that the disk has space and that you own the file, or restore it from your copy of the folder."
        ) from None


def serve(home: ServerHome) -> None:
    """Serve both doors until SIGTERM or SIGINT.

    Raises:
        ConfigError: The folder or its settings are wrong.
        ConnectionFailedError: A port is taken.
        StoreError: The database cannot be opened.
    """
    settings = read_settings(home)
    token = home.operator_token
    listeners = open_listeners(settings)
    app = create_superlink(home, settings)
    try:
        config = uvicorn.Config(
            two_doors(app, operator_port=settings.operator_port, token=token),
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            ssl_certfile=home.server_certificate,
            ssl_keyfile=str(home.server_key),
            log_config=get_uvicorn_log_config(console_handler.level),
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        config.load()
    except OSError as error:
        raise ConfigError(
            f"Expected a certificate and its key in {home.server_certificate} and {home.server_key}, but TLS refuses "
            f"them ({error.strerror}); restore both from your copy of the folder."
        ) from None
    asyncio.run(uvicorn.Server(config).serve(sockets=listeners))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m server.superlink", description="Flower's SuperLink, two doors")
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="the coordinator's folder")
    root: Path = parser.parse_args(arguments).home
    # uvicorn stops on the first signal, then raises it again here.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        home = open_home(root)
        os.environ.update(flower_environment(home.flower))
        serve(home)
    except CollegiumError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _stop(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _as_judged(scope: Scope) -> Scope:
    """The scope with one path only.

    Flower's middleware reads the path from a URL that older Starlette builds with the Host header; with a crafted one
    it would check another path than the router serves. Without a Host header both see `scope["path"]`.
    """
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {**scope, "headers": headers, "root_path": ""}


async def _answer(status: int, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    await JSONResponse({"detail": detail}, status_code=status, headers=headers)(scope, receive, send)


async def _refuse_connection(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


if __name__ == "__main__":
    sys.exit(main())
