"""The reference of the configuration files, written from the code.

    python -m simulations.reference > docs/configuration.md

Every key, its default, its allowed values and what the attribute docstring says. A test holds the page to the code.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from client.data.augmentation import Augmentation
from client.data.masking.options import Mask
from client.data.readers.options import Annotations, Database
from client.institution import AdapterSize, Data, Identity, Institution, Membership, Runtime, Server, Watching
from client.policy import Policy
from server.home import Retention, ServerSettings, Tracking
from shared.federation import (
    Adapter,
    Backbone,
    Federation,
    Personal,
    Privacy,
    Release,
    Robust,
    Rounds,
    SecureAggregation,
    ServerOptimizer,
    Training,
    Wire,
)
from shared.federation.methods import METHODS, columns
from shared.federation.rules import RULES, shown, values_of
from shared.tasks import TASK_TYPES, TaskSpec
from simulations.experiment import Experiment
from simulations.partition import Partition

HEAD = """\
# Configuration

Written by `python -m simulations.reference` from the code; do not edit. An unknown key is an error, and all errors of a
file are reported at once.
"""
EXPERIMENT_HEAD = """\
## experiment.toml
A whole federation on one machine, for `collegium simulate` and `collegium audit`. Paths start from the file's folder,
or from `--data`.

- `[federation]` holds what federation.toml does, `[federation.rounds]` its `[rounds]` and so on.
  `backbone.sha256`, `rounds.institutions`, `rounds.quorum` and `[secure_aggregation.keys]` may be left out.
- `[institutions.NAME.TASK]` is what an institution has as `[data.TASK]` in institution.toml.
- `[partition.TASK]` splits one data set over institutions called `site-01`, `site-02`, ...;
  `[partition.TASK.data]` names it, with the keys of `[data.TASK]`.
"""
FEDERATION: Mapping[str, type[BaseModel]] = {
    "": Federation,
    "backbone": Backbone,
    "adapter": Adapter,
    "training": Training,
    "privacy": Privacy,
    "personal": Personal,
    "rounds": Rounds,
    "robust": Robust,
    "server_optimizer": ServerOptimizer,
    "wire": Wire,
    "secure_aggregation": SecureAggregation,
    "release": Release,
}
INSTITUTION: Mapping[str, type[BaseModel]] = {
    "": Institution,
    "federation.NAME": Membership,
    "server": Server,
    "identity": Identity,
    "data.TASK": Data,
    "data.TASK.annotations": Annotations,
    "data.TASK.database": Database,
    "data.TASK.mask": Mask,
    "data.TASK.augmentation": Augmentation,
    "policy": Policy,
    "adapter": AdapterSize,
    "runtime": Runtime,
    "watching": Watching,
}
SERVER: Mapping[str, type[BaseModel]] = {"": ServerSettings, "retention": Retention, "tracking": Tracking}
EXPERIMENT: Mapping[str, type[BaseModel]] = {"": Experiment, "partition.TASK": Partition}


def reference() -> str:
    """The whole page, Markdown."""
    parts = [HEAD, "## federation.toml\nThe agreement, the same file at the coordinator and at every institution.\n"]
    parts += [_table(name, model) for name, model in FEDERATION.items()]
    parts.append("### [tasks.NAME]\nOne table per task; `collegium tasks` says what each type is.\n")
    for model in get_args(get_args(TaskSpec)[0]):
        parts.append(_spec(model))
    parts.append(
        "## institution.toml\nThe institution's own; it never leaves the site. Relative paths start from it.\n"
    )
    parts += [_table(name, model) for name, model in INSTITUTION.items()]
    parts.append("## server.toml\nThe coordinator's own, made by `collegium server init`.\n")
    parts += [_table(name, model) for name, model in SERVER.items()]
    parts.append(EXPERIMENT_HEAD)
    parts += [_table(name, model) for name, model in EXPERIMENT.items()]
    parts += [_rules(), _methods()]
    return "\n".join(parts)


def _rules() -> str:
    lines = ["| with | the rule | because |", "|---|---|---|"]
    for rule in RULES:
        if rule.needs:
            path, *allowed = rule.needs
            must = f"`{path}` is {_any_of(allowed)}"
        elif values := values_of(rule.forbids):
            must = f"`{rule.forbids.partition('=')[0]}` is not {_any_of(values)}"
        else:
            must = f"no `{shown(rule.forbids)}`"
        path, *named = rule.when.partition("=")[0], *values_of(rule.when)
        when = f"`{path}` is {_any_of(named)}" if named else f"`{shown(path)}`"
        lines.append(f"| {when} | {must} | {rule.because} |")
    return (
        "## What goes with what\nA federation file that breaks a rule is refused when it is read; the error names "
        "every rule that it breaks. All other settings can be combined.\n\n" + "\n".join(lines) + "\n"
    )


def _any_of(values: Iterable[Any]) -> str:
    return " or ".join(f"`{json.dumps(value)}`" for value in values)


def _methods() -> str:
    rows = [
        {"method": f"`{name}`", "": method.summary, "source": method.source, **columns(method)}
        for name, method in METHODS.items()
    ]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "## Methods\nWhat `rounds.method` may be. r is the rank, K the number of institutions; with `[personal]`, what "
        f"stays at home does not travel.\n\n{table}\n"
    )


def _spec(model: type[BaseModel]) -> str:
    (name,) = get_args(model.model_fields["type"].annotation)
    card = TASK_TYPES[name].card
    return f'#### type = "{name}"\n{card.summary[0].upper()}{card.summary[1:]}.\n\n{_rows(model, skip=("type",))}'


def _table(name: str, model: type[BaseModel]) -> str:
    title = f"### [{name}]" if name else "### At the top"
    tables = {key for key, field in model.model_fields.items() if any(map(_is_table, _parts(field.annotation)))}
    return f"{title}\n{_rows(model, skip=tuple(tables))}"


def _rows(model: type[BaseModel], skip: tuple[str, ...]) -> str:
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    documented = docstrings(model)
    for key, field in model.model_fields.items():
        if key not in skip:
            cells = (f"`{key}`", _kind(field), _default(field), documented.get(key, ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


@cache
def docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """What stands under each attribute of a model and of its bases, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
            assert isinstance(body, ast.ClassDef)
            found |= dict(_documented(body))
    return found


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield statement.target.id, " ".join(inspect.cleandoc(text).split())


def _parts(annotation: Any) -> tuple[Any, ...]:
    """A type's alternatives, and what a mapping holds."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return tuple(part for argument in get_args(annotation) for part in _parts(argument))
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin is dict:
        return _parts(get_args(annotation)[1])
    return (annotation,)


def _is_table(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _kind(field: FieldInfo) -> str:
    if field.description:  # where the type alone would be hard to read
        return field.description
    if get_origin(field.annotation) is dict:
        return "table of " + _alternatives(get_args(field.annotation)[1])
    return " ".join([_alternatives(field.annotation), *(bound for item in field.metadata for bound in _bounds(item))])


def _alternatives(annotation: Any) -> str:
    """The types that a value may have, each with its bounds."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return " or ".join(dict.fromkeys(_bounded(part) for part in parts if part is not NoneType))


def _bounded(part: Any) -> str:
    if get_origin(part) is not Annotated:
        return _word(part)
    kind, *metadata = get_args(part)
    items = [found for item in metadata for found in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return " ".join([_alternatives(kind), *(bound for item in items for bound in _bounds(item))])


def _word(part: Any) -> str:
    if get_origin(part) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(part))
    if get_origin(part) is tuple:
        return "list of " + _bounded(get_args(part)[0])
    if isinstance(part, type) and issubclass(part, PurePath):
        return "path"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(part, str(part))


def _bounds(item: Any) -> Iterator[str]:
    match item:
        case Ge(ge=x):
            yield f"≥ {x}"
        case Gt(gt=x):
            yield f"> {x}"
        case Le(le=x):
            yield f"≤ {x}"
        case Lt(lt=x):
            yield f"< {x}"
        case Interval():
            yield from (bound for part in item for bound in _bounds(part))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value == {}:
        return ""
    if isinstance(value, PurePath):
        value = str(value)
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(reference(), end="")
