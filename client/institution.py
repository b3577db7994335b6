"""The institution's own file: who it is, where the coordinator is, where its data lie. It never leaves the site."""

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from client.data.augmentation import Augmentation
from client.data.masking.options import Mask
from client.data.readers import omop
from client.data.readers.options import ASKED, SUFFIXES, Database, Reading
from client.policy import Policy
from shared.config import Licence, Model, Name, Scheme, parse, read_toml
from shared.errors import ConfigError, listed, shown

ADDRESS = r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}$"
"""`host:port`."""
MODEL = TypeVar("MODEL", bound=Model)


def _with_a_port(address: str) -> str:
    if not 1 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError(f"the port must be from 1 to 65535, not as in {address!r}")
    return address


class Server(Model):
    """The coordinator's public door."""

    address: Annotated[str, Field(pattern=ADDRESS), AfterValidator(_with_a_port)] = "127.0.0.1:8443"
    """`host:port`, without a scheme; an IPv6 address in brackets, `[2001:db8::1]:8443`."""
    ca: Path = Path("ca.crt")
    """The coordinator's CA certificate, as received from the coordinator."""
    enrolment: Annotated[str, Field(pattern=ADDRESS), AfterValidator(_with_a_port)] | None = None
    """`host:port` of the coordinator's door for new keys and good-byes; `join` writes it."""


class Identity(Model):
    """The key that proves who this is."""

    key: Path = Path("node.key")
    """Private key made by `collegium client keygen`; it never leaves the site."""


class Files(Model):
    """Where the records of one task lie, by split."""

    train: Path
    """What it trains on: a file, whose ending says what it is, or what `format` says."""
    validation: Path | None = None
    """Chooses the best round; without it, about a tenth of the owners of `train` is held out, by a key of this site."""
    test: Path | None = None
    """Scored before and after a run; never used to train or to choose a round."""


class Data(Reading, Files):
    """The records of one task."""

    limit: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Use at most this many records of each split or, below 1, about this share of the owners; by the same key.

    Under [privacy] a site's daemon takes a share only: whom a number leaves out depends on the other owners.
    """
    annotates: tuple[str, ...] | None = None
    """The labels or entity types that this site annotates, where that is not all of the federation's.

    Training here does not suppress the others: loss and scores consider these labels only.
    """
    rename: dict[str, str] = Field(default_factory=dict)
    """The federation's name for each label that this site's files spell otherwise."""
    group_by: str | None = None
    """The column that names each record's owner (patient, matter, account), whom [privacy] protects as a whole.

    Without it every record is protected by itself. An owner is the same in all tasks where the value is.
    """
    scheme: Scheme = "BIO"
    """How the tags of entities are written: `BIO`, `IOB` (an entity begins with I-), or `BIOES` (also `BILOU`)."""
    licence: Licence | None = None
    """Of these data, as releases tell it that you consent to: an SPDX identifier, or a few words."""
    mask: Mask | None = None
    """Replace names, places, dates and numbers before training, the same way for all records of an owner."""
    augmentation: Augmentation | None = None
    """Reword training texts at random, differently in every epoch; for tasks whose labels hold then."""

    @model_validator(mode="after")
    def _formats(self) -> Self:
        for path in (self.train, self.validation, self.test):
            kind = self.kind_of(path) if path is not None else "jsonl"
            if path is not None and kind is None:
                raise ValueError(
                    f"a data file must end in one of {', '.join(SUFFIXES)}, or `format` must say what it is, not "
                    f"{path.name!r}"
                )
            if kind in ASKED and self.database is None:
                raise ValueError(f"expected a table `database` that says where {path} is asked, but there is none")
        return self

    @model_validator(mode="before")
    @classmethod
    def _patients_own_their_notes(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("format") == "omop":
            return {"group_by": omop.OWNER, **values}
        return values

    def as_written(self, **files: Path | None) -> Self:
        """The same for records that have been read already, and stand in files of JSON Lines."""
        plain = {name: field.get_default(call_default_factory=True) for name, field in Reading.model_fields.items()}
        return self.model_copy(update={**plain, **files})


class Runtime(Model):
    """This machine."""

    state: Path = Path("state")
    """Folder for logs and the daemon's own files."""
    ledger: Path | None = None
    """The institution's privacy ledger; `ledger.sqlite` in `state` if not given.

    There is one budget where all daemons of an institution name one file here, whatever their federations and folders.
    What a ledger in `state` has counted by then is taken in, and goes on being counted.
    """
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Loopback port between SuperNode and executor; 0 picks a free one."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads for training; 0 leaves the choice to PyTorch."""
    poll: Annotated[float, Field(ge=0.05, le=60)] = 0.25
    """Seconds between two looks for work during a run, at a coordinator that does not hold the question for it."""


class Watching(Model):
    """For who looks after this site."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """TCP port on 127.0.0.1 where `/metrics` is answered, with the token in `metrics.token` of the state folder.

    Without it there is none. Each of several federations needs a port of its own.
    """
    notify: Path | None = None
    """File of URLs, one a line, to which notices are sent (mail, webhook, chat, as apprise names them); mode 0600."""


class AdapterSize(Model):
    """This institution's share of the adapter."""

    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Components that this site trains, from the federation's `adapter.min_rank` to its `adapter.rank`, the default."""


def _not_empty(data: dict[str, Data]) -> dict[str, Data]:
    if not data:
        raise ValueError("expected a table [data.TASK] for each task that this institution holds, but there is none")
    return data


class Institution(Model):
    """`institution.toml`, with every path made absolute."""

    name: Name
    """This institution, as the federation file names it."""
    federation: Path = Path("federation.toml")
    """The federation file as this site has approved it: requests under any other agreement are refused."""
    backbone: str | None = None
    """Where this site keeps the backbone, if not where the federation file says."""
    server: Server = Server()
    identity: Identity = Identity()
    data: Annotated[dict[str, Data], AfterValidator(_not_empty), Field(validate_default=True, default_factory=dict)]
    policy: Policy = Policy()
    adapter: AdapterSize = AdapterSize()
    runtime: Runtime = Runtime()
    watching: Watching = Watching()


class Membership(Model):
    """`[federation.NAME]`, in the place of the key `federation`, where an institution belongs to several federations.

    What a table has here stands in the place of the file's own. All federations share one ledger, and take turns.
    """

    file: Path
    """The federation file as this site has approved it."""
    server: Server | None = None
    identity: Identity | None = None
    policy: Policy | None = None
    watching: Watching | None = None
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The tables under [data] that take part here; all of them if not given."""


def federations_of(path: Path) -> list[str]:
    """The names of the federations that a file has tables for; none where it is of one alone, or one is named."""
    file, one = _apart(path)
    named = None if one else read_toml(file).get("federation")
    return list(named) if isinstance(named, dict) else []


def load_institution(path: Path, *, data: Path | None = None) -> Institution:
    """Read `institution.toml`; ConfigError names every wrong key.

    Args:
        path: The file; relative paths in it are relative to it. `institution.toml#NAME` is what holds in one of its
            federations, with a state folder of its own.
        data: A folder to which the paths of data files are relative instead.
    """
    path, named = _apart(path)
    values = read_toml(path)
    if named or isinstance(values.get("federation"), dict):
        values = _of_federation(values, named, path)
    institution = parse(Institution, values, where=str(path))
    if data is not None:
        files = {name: with_absolute_paths(source, data.resolve()) for name, source in institution.data.items()}
        institution = institution.model_copy(update={"data": files})
    folder = path.resolve().parent
    if institution.backbone is not None and (folder / institution.backbone).is_dir():
        institution = institution.model_copy(update={"backbone": str(folder / institution.backbone)})
    return with_absolute_paths(institution, folder)


def _apart(path: Path) -> tuple[Path, str]:
    """The file, and the federation that is named behind it."""
    file, mark, named = path.name.rpartition("#")
    return (path.with_name(file), named) if mark and not path.exists() else (path, "")


def _of_federation(values: dict[str, Any], named: str, path: Path) -> dict[str, Any]:
    """What a file says of one of its federations, as a file would that knows no other."""
    tables = values.get("federation")
    if not isinstance(tables, dict) or named not in tables:
        known = listed(tables) if isinstance(tables, dict) else "none, but `federation` as a path"
        raise ConfigError(
            f"Expected one of the federations of {path}, {known}, but {shown(named) if named else 'none'} is named; "
            f"write for example {path.name}#{next(iter(tables), 'NAME') if isinstance(tables, dict) else ''}."
        )
    where = f"{path}: federation.{named}"
    own = parse(Membership, tables[named], where=where).model_dump(exclude_unset=True)
    parse(Named, {"name": named}, where=where)
    tasks, data = own.pop("tasks", None), values.get("data", {})
    if tasks and (unknown := sorted(set(tasks) - set(data))):
        raise ConfigError(f"{where}.tasks names {listed(unknown)}, for which there is no table under [data].")
    runtime = dict(values.get("runtime", {}))
    state = Path(runtime.get("state", "state"))
    runtime["ledger"] = runtime.get("ledger", str(state / "ledger.sqlite"))
    runtime["state"] = str(state / named)
    return {
        **values,
        **{key: tables[named][key] for key in own if key != "file"},
        "federation": str(own["file"]),
        "data": {task: table for task, table in data.items() if tasks is None or task in tasks},
        "runtime": runtime,
    }


class Named(Model):
    """What a federation may be called here; it names a folder."""

    name: Name


def with_absolute_paths(model: MODEL, folder: Path) -> MODEL:
    """A model with every path in it relative to a folder."""
    changed: dict[str, object] = {}
    for key, value in model:
        if isinstance(value, Path):
            changed[key] = folder / value.expanduser()
        elif isinstance(value, Database):
            changed[key] = with_absolute_paths(value.beside(folder), folder)
        elif isinstance(value, Model):
            changed[key] = with_absolute_paths(value, folder)
        elif isinstance(value, dict):
            changed[key] = {
                name: with_absolute_paths(item, folder) if isinstance(item, Model) else item
                for name, item in value.items()
            }
    return model.model_copy(update=changed)
