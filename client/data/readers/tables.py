"""Arrow's tables: Parquet, and the folders that Hugging Face's `datasets` writes, by pyarrow alone."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client.data.readers.base import BadRow, Rows, Source
from shared.errors import DataError, listed
from shared.fields import Split

SHARD = re.compile(r"([\w.]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.(?:parquet|arrow)")
CALLED: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""What splits are called elsewhere."""


def read_parquet(source: Source) -> Rows:
    """The rows of a file; place is the row."""
    yield from enumerate(_rows_of(source.path), start=1)


def read_datasets(source: Source) -> Rows:
    """The rows of a folder of `save_to_disk`, or of one with the Parquet files of a split; place is the row.

    Numbers that stand for class labels become their names, and answers that stand as SQuAD has them become objects.
    """
    files, features = _find(source.path, source.split)
    number = 0
    for file in files:
        for row in _rows_of(file):
            number += 1
            try:
                yield f"row {number}", {name: _spelt(value, features.get(name)) for name, value in row.items()}
            except (TypeError, ValueError):
                yield f"row {number}", BadRow("expected as many answers in 'text' as in 'answer_start', as in SQuAD")


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _arrow_errors(path):
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as stream:
                for batch in pa.ipc.open_stream(stream):
                    yield from batch.to_pylist()
        else:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches():
                    yield from batch.to_pylist()


def _find(folder: Path, split: Split) -> tuple[list[Path], Mapping[str, Any]]:
    """The files of a split, and what their columns hold."""
    if (several := folder / "dataset_dict.json").is_file():
        names = _json(several).get("splits", [])
        raise DataError(
            f"Expected the folder of one split, but {folder} has {listed(names)}; name one of them, such as "
            f"{folder.name}/{names[0] if names else 'train'}."
        )
    if (state := folder / "state.json").is_file():
        try:
            files = [folder / each["filename"] for each in _json(state)["_data_files"]]
        except (KeyError, TypeError):
            raise DataError(f"Expected the names of a data set's files in {state}, but it has another form.") from None
        return files, _json(folder / "dataset_info.json").get("features") or {}
    files = sorted([*folder.rglob("*.parquet"), *folder.rglob("*.arrow")])
    shards = {file: SHARD.fullmatch(file.name) for file in files}
    splits = sorted({match[1] for match in shards.values() if match})
    if len(splits) > 1:
        files = [file for file, match in shards.items() if match and match[1] in CALLED[split]]
    if not files:
        found = f"only files of {listed(splits)}" if splits else "no file of Arrow or Parquet"
        raise DataError(f"Expected a folder of Hugging Face `datasets` with {split} at {folder}, but there is {found}.")
    return files, _features_of(files[0])


def _features_of(file: Path) -> Mapping[str, Any]:
    """What `datasets` has noted in a file of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _arrow_errors(file):
        if file.suffix == ".arrow":
            with pa.memory_map(str(file)) as stream:
                metadata = pa.ipc.open_stream(stream).schema.metadata or {}
        else:
            metadata = pq.read_schema(file).metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    except (ValueError, AttributeError):
        raise DataError(f"Expected what `datasets` notes in {file} as JSON, but it has another form.") from None
    return dict(features)


def _spelt(value: Any, feature: Any) -> Any:
    """A value with the names of its class labels."""
    if isinstance(feature, list) and feature:  # as older releases write a list
        feature = {"feature": feature[0]}
    if isinstance(value, dict) and value.keys() == {"text", "answer_start"}:
        pairs = zip(value["text"], value["answer_start"], strict=True)
        return [{"text": text, "start": start} for text, start in pairs]
    if not isinstance(feature, Mapping):
        return value
    if feature.get("_type") == "ClassLabel" and isinstance(value, int):
        names = feature.get("names", ())
        return names[value] if 0 <= value < len(names) else None if value == -1 else value
    if isinstance(value, list):
        return [_spelt(item, feature.get("feature")) for item in value]
    return value


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Expected the description of a data set in {file}, but it cannot be read: {error}.") from None
    return found if isinstance(found, dict) else {}


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise DataError(f"Could not read {path} as {path.suffix}: {error}.") from error
