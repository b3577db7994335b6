"""Every number in every file that people write is finite, whatever model reads the file."""

import importlib
import math
import pkgutil
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import client
import collegium
import server
import shared
import simulations

ROOMS: tuple[ModuleType, ...] = (client, collegium, server, shared, simulations)
NUMBERS = (math.inf, -math.inf, math.nan)


def models() -> Iterator[type[BaseModel]]:
    """Every pydantic model of every module."""
    for room in ROOMS:
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    waiting, seen = [BaseModel], set[type[BaseModel]]()
    while waiting:
        for model in waiting.pop().__subclasses__():
            if model not in seen:
                seen.add(model)
                waiting.append(model)
                if model.__module__.split(".")[0] in {room.__name__ for room in ROOMS}:
                    yield model


def floats(annotation: Any, wrap: Any = lambda value: value) -> Iterator[Any]:
    """For each place of a float in a type, a function that makes a value with a number there."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is float:
        yield wrap
    elif origin is typing.Annotated:
        yield from floats(arguments[0], wrap)
    elif origin in (tuple, list, set, frozenset):
        for argument in arguments:
            yield from floats(argument, lambda value: wrap([value]))
    elif isinstance(origin, type) and issubclass(origin, typing.Mapping):
        yield from floats(arguments[1], lambda value: wrap({"a": value}))
    else:
        for argument in arguments:
            yield from floats(argument, wrap)


FIELDS = [
    pytest.param(model, name, make, id=f"{model.__module__}.{model.__name__}.{name}")
    for model in models()
    for name, field in model.model_fields.items()
    for make in floats(field.annotation)
]


def test_there_are_numbers_in_every_kind_of_file() -> None:
    found = {str(param.id).rsplit(".", 2)[1] for param in FIELDS}
    assert found >= {"Training", "Rounds", "Privacy", "Policy", "Data", "Runtime", "Partition", "QuestionAnsweringSpec"}


@pytest.mark.parametrize(("model", "name", "make"), FIELDS)
def test_a_number_is_finite(model: type[BaseModel], name: str, make: Any) -> None:
    for number in NUMBERS:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({name: make(number)})
        assert any(error["loc"][:1] == (name,) for error in caught.value.errors()), f"{name} = {number} is taken"
