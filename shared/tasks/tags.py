"""How tags of entities are written: BIO, which Collegium computes with, and the schemes that are turned into it."""

from collections.abc import Sequence

from shared.config import Scheme as Scheme


def to_bio(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Tags of another scheme as BIO.

    In IOB an entity begins with `I-`, and with `B-` only right after another of its type (Ramshaw and Marcus 1995). In
    BIOES, and BILOU, single words are `S-` or `U-`, and last ones `E-` or `L-`.
    """
    if scheme == "BIO":
        return list(tags)
    if scheme == "IOB":
        return begun(tags)
    return [{"S": "B", "U": "B", "E": "I", "L": "I"}.get(tag[:1], tag[:1]) + tag[1:] for tag in tags]


def begun(tags: Sequence[str]) -> list[str]:
    """The tags with `B-` wherever an entity begins with `I-`."""
    legal: list[str] = []
    for tag in tags:
        continues = bool(legal) and legal[-1][1:] == tag[1:]
        legal.append("B" + tag[1:] if tag[0] == "I" and not continues else tag)
    return legal
