"""The coordinator's folder: every path in it, how it is made, and the settings it holds."""

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, field_validator, model_validator

from server.enrolment.authority import Issued, create_authority, issue_server_certificate
from shared.config import Model, parse, read_toml
from shared.errors import ConfigError, joined
from shared.process.files import built, check_private, private_folder, write_new

# Tells the ServerApp, which Flower starts, where its coordinator's folder is.
HOME_VARIABLE = "COLLEGIUM_SERVER_HOME"

Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True)
class ServerHome:
    """Where everything of one coordinator lies; making one touches no disk.

    Attributes:
        root: The folder given to `collegium server init`.
    """

    root: Path

    @property
    def federation_file(self) -> Path:
        """What the federation agreed on; written by hand."""
        return self.root / "federation.toml"

    @property
    def settings_file(self) -> Path:
        """Addresses and ports of this coordinator; see `ServerSettings`."""
        return self.root / "server.toml"

    @property
    def ca_certificate(self) -> Path:
        """The root certificate, which institutions are given."""
        return self.root / "public" / "ca.crt"

    @property
    def release_public_key(self) -> Path:
        """By which anybody can tell that a bundle is this coordinator's; for readers of bundles."""
        return self.root / "public" / "release.pub"

    @property
    def secrets(self) -> Path:
        """Folder that only its owner may open."""
        return self.root / "secrets"

    @property
    def ca_key(self) -> Path:
        """Signs server certificates."""
        return self.secrets / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """Shown by both doors."""
        return self.secrets / "server.crt"

    @property
    def server_key(self) -> Path:
        """Private key of the server certificate."""
        return self.secrets / "server.key"

    @property
    def release_key(self) -> Path:
        """Signs bundles (Ed25519); made when it is first needed in a folder that was made without."""
        return self.secrets / "release.key"

    @property
    def operator_token_file(self) -> Path:
        """The bearer token of the operator door, one line of text."""
        return self.secrets / "operator.token"

    @property
    def viewer_token_file(self) -> Path:
        """The token of those who may look at the page and no more; there once one was made."""
        return self.secrets / "viewer.token"

    @property
    def metrics_token_file(self) -> Path:
        """The bearer token of `/metrics`, one line of text, made when it is first needed."""
        return self.secrets / "metrics.token"

    @property
    def superexec_secret_file(self) -> Path:
        """Shared by Flower's SuperLink and SuperExec, which read the file as raw bytes."""
        return self.secrets / "superexec.secret"

    @property
    def next_ca_key(self) -> Path:
        """Of the authority that is about to take the place of this one; there while that is under way."""
        return self.secrets / "next-ca.key"

    @property
    def state(self) -> Path:
        """Databases and Flower's own files."""
        return self.root / "state"

    @property
    def superlink_database(self) -> Path:
        """Flower's state: nodes, runs, messages under way."""
        return self.state / "superlink.db"

    @property
    def default_store_url(self) -> str:
        """Collegium's own store, unless the settings name another."""
        return f"sqlite:///{self.state.resolve() / 'collegium.db'}"

    @property
    def enrolment_database(self) -> Path:
        """Invitations, and who has left."""
        return self.state / "enrolment.db"

    @property
    def flower(self) -> Path:
        """Flower's `FLWR_HOME`."""
        return self.state / "flower"

    @property
    def notices(self) -> Path:
        """Which notices were sent."""
        return self.state / "notices.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one `collegium server up` of this folder; contains its process id."""
        return self.state / "server.lock"

    def run_lock(self, run: str) -> Path:
        """Held by the process of a run."""
        return self.state / f"run-{run}.lock"

    def run_log(self, run: str) -> Path:
        """What happens in a run, line by line."""
        return self.logs / f"run-{run}.log"

    @property
    def logs(self) -> Path:
        """One file per child process, and one per run."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Global state after each round."""
        return self.root / "checkpoints"

    @property
    def private(self) -> tuple[Path, ...]:
        """Folders of what nobody else may read, besides the secrets."""
        return self.state, self.logs, self.checkpoints

    @property
    def operator_token(self) -> str:
        """The operator token itself.

        Raises:
            ConfigError: The file cannot be read or is empty.
        """
        token = _read(self.operator_token_file, "the operator token").decode("ascii", "replace").strip()
        if not token:
            raise ConfigError(
                f"Expected the operator token in {self.operator_token_file}, but the file is empty; restore it from "
                "your copy of the folder or write a new random line into it and restart the server."
            )
        return token


class Retention(Model):
    """What is kept of runs, and for how long; receipts, scores and releases are never thrown away."""

    checkpoints: Annotated[int, Field(ge=1)] = 3
    """Of each run the first checkpoint, so many of the best rounds and so many of the last are kept.

    All of them, where rounds add to the frozen weights (`fedex`, `flora`): a release is made of every one.
    """
    days: Annotated[int, Field(ge=1)] = 90
    """After so many days the events of a run that has ended, and what its process wrote, are thrown away."""


class Tracking(Model):
    """Where runs are tracked, by a process beside them: parameters, scores, epsilon, bytes, and the release."""

    tensorboard: Path | None = None
    """Folder for event files, as `tensorboard --logdir` is given it; a relative one starts from the folder."""
    mlflow: str | None = None
    """MLflow's tracking URI: `http://...`, or `sqlite:////absolute/path/mlflow.db`."""
    wandb: str | None = None
    """Project of Weights & Biases; WANDB_MODE=offline and WANDB_API_KEY in the environment are heeded."""


class ServerSettings(Model):
    """`server.toml`: where the two doors listen and under which names they are reached."""

    public_host: str
    """Address that the public door binds to; `0.0.0.0` is every one of IPv4, `::` every one of IPv6 and IPv4."""
    public_port: Port
    """TCP port of the public door."""
    operator_port: Port
    """TCP port of the operator door, always on 127.0.0.1."""
    enrolment_port: Port | None = None
    """TCP port of the enrolment door, on the public door's address; without it there is none, and nobody is invited."""
    hosts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$", max_length=253)], ...], Field(min_length=1)
    ]
    """DNS names and IP addresses in the server certificate; institutions connect to the first."""
    store_url: str | None = None
    """SQLAlchemy URL of the database of runs; if not given, a SQLite file in the folder."""
    require_body_signature: bool = True
    """Whether institutions must sign every request whole (method, path, body, time, nonce), as Collegium's daemon does.

    False lets stock SuperNodes in, whose signature covers the time alone.
    """
    max_message_bytes: Annotated[int, Field(ge=2**20, le=2**36)] = 2**28
    """Largest reply of an institution, in bytes.

    The default has room for four times the masked update (64 bits a value) of LoRA of rank 16 in every linear layer of
    a BERT-large.
    """

    notify: Path | None = None
    """File of URLs, one a line, to which notices are sent (mail, webhook, chat, as apprise names them); mode 0600.

    A relative path starts from the coordinator's folder.
    """
    retention: Retention = Retention()
    """What is kept of runs, and for how long."""
    tracking: Tracking = Tracking()
    """Where runs are tracked."""

    @field_validator("hosts")
    @classmethod
    def _without_ports(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                ipaddress.ip_address(host if ":" in host else "::")
            except ValueError:
                raise ValueError(f"{host} is neither a name nor an IP address; ports are not part of hosts") from None
        return hosts

    @model_validator(mode="after")
    def _different_ports(self) -> "ServerSettings":
        ports = [port for port in (self.public_port, self.operator_port, self.enrolment_port) if port is not None]
        if len(set(ports)) < len(ports):
            raise ValueError(f"public_port, operator_port and enrolment_port must differ, not be {joined(ports)}")
        return self

    @property
    def address(self) -> str:
        """`host:port` for institutions."""
        return f"{bracketed(self.hosts[0])}:{self.public_port}"

    @property
    def enrolment_address(self) -> str | None:
        """`host:port` of the enrolment door; None if there is none."""
        return None if self.enrolment_port is None else f"{bracketed(self.hosts[0])}:{self.enrolment_port}"


def init_home(
    root: Path,
    *,
    hosts: Sequence[str],
    public_port: int,
    operator_port: int,
    enrolment_port: int | None = None,
    federation: str | None = None,
) -> ServerHome:
    """Create a coordinator's folder: certificate authority, server certificate, secrets, settings; whole or not at all.

    Args:
        root: The folder; may exist, but not as a coordinator's.
        hosts: DNS names and IP addresses under which institutions reach this machine, of IPv6 with or without brackets.
            If all are loopback, the public door binds to the first one, otherwise to all addresses: of IPv4, or of both
            kinds if one of them is of IPv6.
        public_port: TCP port of the public door.
        operator_port: TCP port of the operator door.
        enrolment_port: TCP port of the enrolment door; without one there is none.
        federation: What stands in the federation file; the caller's to write if None.

    Raises:
        ConfigError: The folder already is a coordinator's, cannot be written, or a value is not allowed.
    """
    home = ServerHome(root)
    hosts = [host.strip("[]") if ":" in host else host for host in hosts]
    for present in (home.settings_file, home.secrets, home.ca_certificate):
        if present.exists():
            raise ConfigError(
                f"Expected a folder without a coordinator, but {present} exists, and a new authority would shut out "
                f"every enrolled institution; use it with `collegium server up {root}` or choose another folder."
            )
    settings = parse(
        ServerSettings,
        {
            "public_host": _bind_address(hosts),
            "public_port": public_port,
            "operator_port": operator_port,
            "enrolment_port": enrolment_port,
            "hosts": list(hosts),
        },
        where="the options of `collegium server init`",
    )
    authority = create_authority()
    server = issue_server_certificate(authority, settings.hosts)
    try:
        with built(root) as building:
            _write_home(ServerHome(building), authority, server, _settings_text(settings))
            if federation is not None:
                ServerHome(building).federation_file.write_text(federation, encoding="utf-8")
    except OSError as error:
        where = error.filename or root
        raise ConfigError(
            f"Expected to write the coordinator's files below {root}, but {where} cannot be written "
            f"({error.strerror}); choose a folder that you own on a disk with free space."
        ) from None
    return home


def _write_home(home: ServerHome, authority: Issued, server: Issued, settings: str) -> None:
    home.ca_certificate.parent.mkdir(mode=0o700)
    for folder in (*home.private, home.secrets):
        private_folder(folder)
    write_new(home.ca_key, authority.key, 0o600)
    write_new(home.server_key, server.key, 0o600)
    write_new(home.server_certificate, server.certificate, 0o600)
    write_new(home.operator_token_file, f"{secrets.token_urlsafe(32)}\n".encode("ascii"), 0o600)
    write_new(home.superexec_secret_file, secrets.token_hex(32).encode("ascii"), 0o600)
    home.ca_certificate.write_bytes(authority.certificate)
    write_new(home.settings_file, settings.encode(), 0o600)  # store_url may hold a password


def open_home(root: Path) -> ServerHome:
    """The coordinator's folder at `root`, complete.

    Raises:
        ConfigError: It is not a coordinator's folder, one of its files is missing, or others may read a secret.
    """
    home = ServerHome(root)
    if not home.settings_file.is_file():
        raise ConfigError(
            f"Expected a coordinator's folder, but {root} has no {home.settings_file.name}; "
            f"create it with `collegium server init {root}` or name another folder."
        )
    for path in (
        home.ca_certificate,
        home.server_certificate,
        home.server_key,
        home.operator_token_file,
        home.superexec_secret_file,
    ):
        if not path.is_file():
            raise ConfigError(
                f"Expected a complete coordinator's folder, but {path} is missing; restore it from your copy of the "
                "folder, or make a new folder with `collegium server init` and enrol the institutions again."
            )
    for path in (
        home.ca_key,
        home.server_key,
        home.operator_token_file,
        home.viewer_token_file,
        home.superexec_secret_file,
        home.release_key,
    ):
        check_private(path)
    return home


def read_settings(home: ServerHome) -> ServerSettings:
    """Read `server.toml`.

    Raises:
        ConfigError: The file is absent, is no TOML, has an unknown key or a value that is not allowed; all at once.
    """
    return parse(ServerSettings, read_toml(home.settings_file), where=str(home.settings_file))


def _settings_text(settings: ServerSettings) -> str:
    return (
        "# Where this coordinator listens. Restart `collegium server up` after a change.\n"
        "# public_host and public_port: the door for institutions (TLS, enrolled keys only).\n"
        "# operator_port: the door for your own commands, on 127.0.0.1 only.\n"
        "# enrolment_port: the door for invitations, new keys and good-byes (TLS); without it there is none.\n"
        "# hosts: names in the server certificate; institutions connect to the first. The next start reissues it.\n"
        "# require_body_signature = false lets stock SuperNodes in, whose signature covers the time alone.\n"
        "# max_message_bytes: the largest reply of an institution.\n"
        '# notify = "secrets/notify.urls" sends notices to the URLs in that file (docs/deploy/README.md).\n'
        "# [retention] at the end: how many checkpoints of a run are kept, and for how many days its events.\n"
        "# [tracking] at the end: tensorboard, mlflow, wandb, a line each (docs/coordinator.md).\n"
        '# store_url = "postgresql+psycopg://..." keeps runs and metrics elsewhere than in state/collegium.db.\n'
        + tomli_w.dumps(settings.model_dump(exclude_none=True, exclude={"retention", "tracking"}))
    )


def bracketed(host: str) -> str:
    """A host as it stands before `:port`: an IPv6 address in brackets, anything else as it is."""
    return f"[{host}]" if ":" in host else host


def _bind_address(hosts: Sequence[str]) -> str:
    if not all(_is_loopback(host) for host in hosts):
        return "::" if any(":" in host for host in hosts) else "0.0.0.0"
    return "::1" if hosts[0] == "::1" else "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected {what} in {path}, but the file cannot be read ({error.strerror}); "
            "check that the folder was made by `collegium server init` and that you own it."
        ) from None
