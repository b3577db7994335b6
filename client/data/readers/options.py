"""What `[data.TASK]` says of how its files are read; one table for all readers."""

import codecs
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, field_validator, model_validator

from shared.config import Model
from shared.fields import Split

Format = Literal[
    "jsonl",
    "json",
    "csv",
    "parquet",
    "folder",
    "datasets",
    "sql",
    "conll",
    "squad",
    "brat",
    "doccano",
    "label-studio",
    "inception",
    "omop",
]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json": "json",
    ".json.gz": "json",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".sql": "sql",
    ".conll": "conll",
    ".conllu": "conll",
    ".iob": "conll",
    ".iob2": "conll",
}
"""What a file is where nobody says it."""
ASKED = ("sql", "omop")
"""What needs a database."""
Cell = bool | int | float | date | str
Cells = Cell | tuple[Cell, ...]
SECRETS = ("password", "passwd", "pwd", "sslpassword")


def format_of(path: Path) -> Format | None:
    """What a file's ending says that it is; None if that says nothing."""
    return next((kind for suffix, kind in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


def _known_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError(f"expected the name of an encoding, such as utf-8 or cp1252, not {name!r}") from None


class Database(Model):
    """`[data.TASK.database]`: where the query in a `.sql` file is asked."""

    url: str
    """SQLAlchemy's URL without a password: `postgresql+psycopg://reader@host/clinic`, `sqlite:///notes.db`."""
    cdm_schema: str | None = None
    """Of OMOP: the schema in which NOTE, NOTE_NLP and CONCEPT lie."""
    password_env: str | None = None
    """The environment variable that holds the password."""
    password_file: Path | None = None
    """The file that holds the password; mode 0600."""

    @field_validator("url")
    @classmethod
    def _has_no_secret(cls, text: str) -> str:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            raise ValueError("expected a URL such as postgresql+psycopg://reader@host/clinic") from None
        if url.password or any(key.lower() in SECRETS for key in url.query):
            raise ValueError("a password stands in it; put it into a file or a variable: password_file, password_env")
        return text

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_env and self.password_file:
            raise ValueError("expected password_env or password_file, but both came")
        return self

    def beside(self, folder: Path) -> Self:
        """The same with a relative file of SQLite, as with any path, relative to a folder."""
        from sqlalchemy.engine import make_url

        url = make_url(self.url)
        if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":", "file:", "/")):
            return self
        return self.model_copy(update={"url": str(url.set(database=str(folder / quote(url.database, safe="/. "))))})


class Annotations(Model):
    """`[data.TASK.annotations]`: what of annotated documents is read (brat, doccano, Label Studio, INCEpTION, OMOP)."""

    skip: tuple[str, ...] = ()
    """Types of entities and relations that are passed over, as the tool calls them."""
    overlaps: Literal["refuse", "longest"] = "refuse"
    """What becomes of entities that overlap, which tags cannot say: an error, or the longest of them is taken."""
    layer: str = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
    """Of INCEpTION: the type of the annotations that are entities."""
    feature: str | None = None
    """What names an entity's type: of INCEpTION a feature (`value` if not given), of OMOP a column of CONCEPT
    (`domain_id`)."""
    relation_layer: str | None = None
    """Of INCEpTION: the type of the annotations that are relations."""
    relation_feature: str = "label"
    """Of INCEpTION: the feature that names a relation."""


class Reading(Model):
    """How the files of one task are read."""

    format: Format | None = None
    """What the files are, where their ending does not say it: see docs/data.md."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the columns of CSV: a comma, or in `.tsv` a tab, if not given."""
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    """Of files of text; `cp1252`, for instance, is what Windows programs of Western Europe write."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Where a field stands under another name: `{ text = "note_text", label = "code" }`."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict, description="table of tables of text")
    """By field, what stands for a value of it, or for an item of its list: `{ tags = { 0 = "O", 1 = "B-Drug" } }`.

    Labels and entity types are renamed by `rename`.
    """
    where: dict[str, Cells | dict[Split, Cells]] = Field(
        default_factory=dict, description="table of values, of lists of values, or of tables of these by split"
    )
    """Which rows count: `{ year = [2025, 2026] }` those with one of these values in a column, as the source calls it.

    By split where one source holds several: `{ part = { train = "train", validation = "dev", test = "test" } }`.
    """
    annotations: Annotations = Annotations()
    database: Database | None = None
    """Where a `.sql` file is asked."""

    def kind_of(self, path: Path) -> Format | None:
        """How a source is read; None if nothing says it."""
        return self.format or format_of(path)


AS_IT_IS = Reading()
"""How a source is read of which nothing is said."""
