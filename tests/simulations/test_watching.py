"""A look is taken again and again, and not once more after the end."""

import time

from simulations.watching import looking


def test_it_is_looked_at_while_the_block_lasts() -> None:
    looks = list[None]()
    with looking(lambda: looks.append(None), every=0.01):
        end = time.monotonic() + 30
        while len(looks) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    seen = len(looks)
    time.sleep(0.05)
    assert len(looks) == seen
