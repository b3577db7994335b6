"""INCEpTION's exports: UIMA CAS as XMI or JSON, in a folder, or in the .zip that it gives, by dkpro-cassis."""

import io
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from client.data.readers.base import BadRow, Rows, Source
from client.data.readers.folder import files_of
from client.data.readers.options import Annotations
from shared.errors import ConfigError, DataError, plain
from shared.tasks.documents import Entity, Relation

TYPES = "typesystem.xml"
"""The file beside an XMI that says what its types are."""
METADATA = "de.tudarmstadt.ukp.dkpro.core.api.metadata.type.DocumentMetaData"


def read(source: Source) -> Rows:
    """A document for each CAS; place is its file. Columns beside are `file`, `folder`, `document` and `collection`."""
    if find_spec("cassis") is None:
        raise ConfigError(
            "Expected dkpro-cassis, which reads exports of INCEpTION, but it is missing: pip install "
            "'collegium[inception]'."
        )
    found = False
    for name, content, types in _files(source.path):
        found = True
        place = Path(name)
        beside = {"file": name, "folder": str(place.parent)}
        try:
            yield name, {**beside, **_document(name, content, types, source.how.annotations)}
        except Exception as error:  # whatever a parser of XML or JSON raises
            yield name, BadRow(f"expected a UIMA CAS, but {plain(str(error) or type(error).__name__, 200)}")
    if not found:
        raise DataError(f"Expected .xmi or .json of INCEpTION in {source.path}, but there is none.")


def _files(path: Path) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Name and content of each CAS, and the types of those in XMI."""
    files = files_of(path, "a folder of INCEpTION") if path.is_dir() else [path]
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(file) as packed:
                inner = {each: packed for each in packed.namelist()}
                types = next((packed.read(each) for each in inner if Path(each).name.lower() == TYPES), None)
                for each in sorted(inner):
                    if each.lower().endswith((".xmi", ".json")):
                        yield f"{name}/{each}", packed.read(each), types
        elif file.suffix.lower() in (".xmi", ".json"):
            beside = [each for each in file.parent.iterdir() if each.name.lower() == TYPES]
            beside += [each for each in path.iterdir() if each.name.lower() == TYPES] if path.is_dir() else []
            yield name, file.read_bytes(), beside[0].read_bytes() if beside else None


def _document(name: str, content: bytes, types: bytes | None, how: Annotations) -> dict[str, Any]:
    cassis = import_module("cassis")
    if name.lower().endswith(".json"):
        cas = cassis.load_cas_from_json(io.BytesIO(content))
    else:
        if types is None:
            raise ValueError("there is no TypeSystem.xml beside it")
        cas = cassis.load_cas_from_xmi(io.BytesIO(content), typesystem=cassis.load_typesystem(io.BytesIO(types)))
    if not cas.typesystem.contains_type(how.layer):
        raise ValueError(f"there is no layer {how.layer}; name another one as annotations.layer")
    feature = how.feature or "value"
    entities = [
        Entity(str(each[feature]), each.begin, each.end, str(each.xmiID), each.get_covered_text())
        for each in cas.select(how.layer)
        if each[feature] is not None
    ]
    relations = [
        Relation(str(each[how.relation_feature]), str(each.Governor.xmiID), str(each.Dependent.xmiID))
        for each in (cas.select(how.relation_layer) if how.relation_layer else ())
        if each[how.relation_feature] is not None
    ]
    return {**_beside(cas), "text": cas.sofa_string, "entities": entities, "relations": relations}


def _beside(cas: Any) -> dict[str, Any]:
    if not cas.typesystem.contains_type(METADATA):
        return {}
    about = next(iter(cas.select(METADATA)), None)
    named = {"document": "documentTitle", "collection": "collectionId"}
    return {column: about[name] for column, name in named.items()} if about is not None else {}
