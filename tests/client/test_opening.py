"""From files to a site."""

from collections.abc import Callable

import pytest

from client.site import Site
from shared.errors import ConfigError

MakeSite = Callable[..., Site]


def test_a_name_that_the_federation_does_not_know_is_an_error(make_site: MakeSite) -> None:
    with pytest.raises(ConfigError, match="'clinic'"):
        make_site("clauses", name="clinic")
