"""Reading what people write: every error at once, with the key as it stands in the file."""

from functools import cached_property
from typing import Annotated, Literal

import pytest
from pydantic import Field

from shared.config import Model, parse
from shared.errors import ConfigError


class Circle(Model):
    """One kind of shape."""

    type: Literal["circle"]
    radius: float


class Polygon(Model):
    """Another, which may hold shapes."""

    type: Literal["polygon"]
    corners: list[int]
    within: Annotated[
        dict[str, Annotated["Circle | Polygon", Field(discriminator="type")]], Field(default_factory=dict)
    ]


class Drawing(Model):
    """The file."""

    shapes: dict[str, Annotated[Circle | Polygon, Field(discriminator="type")]]


def test_keys_are_those_of_the_file() -> None:
    inner = {"circle": {"type": "circle"}, "polygon": {"type": "circle", "radius": "wide", "colour": "red"}}
    values = {"shapes": {"circle": {"type": "polygon", "corners": [1, "two"], "within": inner}}, "size": 3}
    with pytest.raises(ConfigError) as caught:
        parse(Drawing, values, where="drawing.toml")
    said = str(caught.value)
    assert said.startswith("drawing.toml: ")
    assert said.removeprefix("drawing.toml: ").split("; ")[1:2] == [
        "shapes.circle.within.circle.radius is required but missing"
    ]
    assert "shapes.circle.corners.1: " in said
    assert "shapes.circle.within.polygon.radius: " in said
    assert "not 'wide'" in said
    assert "shapes.circle.within.polygon.colour is not a known key" in said
    assert "size is not a known key" in said


def test_an_error_of_the_whole_is_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^here: file: "):
        parse(Drawing, [], where="here")  # type: ignore[arg-type]


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError, match=r"not 'x{76}\.\.\.$"):
        parse(Drawing, {"shapes": "x" * 1000}, where="here")


def test_a_changed_copy_remembers_nothing_of_what_it_was_copied_from() -> None:
    class Square(Model):
        side: float

        @cached_property
        def area(self) -> float:
            return self.side**2

    square = Square(side=2.0)
    assert square.area == 4.0
    assert square.model_copy(update={"side": 3.0}).area == 9.0
    assert square == Square(side=2.0)
