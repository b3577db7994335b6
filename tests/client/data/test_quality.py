"""Quality: each kind of broken text is found, and honest text in several languages is not."""

import pytest

from client.data.quality import TROUBLES, troubles_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("page\x0cbreak", "control characters"),
        ("a null\x00 byte", "control characters"),
        ("lost \ufffd here", "replacement characters"),
        ("The caf\u00c3\u00a9 is closed.", "mojibake"),
        ("The patient\u00e2\u20ac\u2122s arm", "mojibake"),
        ("12.5 | 13.7 | 99 %", "few letters"),
        (" ", "few letters"),
    ],
)
def test_each_kind_of_trouble_is_found(text: str, kind: str) -> None:
    assert troubles_of(["An honest sentence.", text] if text.strip() and kind != "few letters" else [text]) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "She pays 3.5 % (12 euros),\n\tin \u201cthirty\u201d days \u2013 or not.",
        "\u201eDas macht Spa\u00df\u201c, sagt M\u00fcller.",
        "\u00c0\u00a0demain\u00a0! \u00ab L\u2019\u00e9t\u00e9 \u00bb \u00e0\u00a0\u00ab lui \u00bb",
        "\u0930\u094b\u0917\u0940 \u0915\u094b \u0926\u0935\u093e \u0926\u0940 \u0917\u0908",
        "\u60a3\u8005\u670d\u7528\u963f\u53f8\u5339\u6797\u3002",
        "\u041f\u0430\u0446\u0438\u0435\u043d\u0442 \u043f\u0440\u0438\u043d\u044f\u043b 5 \u043c\u0433.",
        "TGF-\u03b2 at 37 \u00b0C, \u00b5g/mL, p \u2264 0.05",
    ],
)
def test_honest_text_is_left_alone(text: str) -> None:
    assert troubles_of([text]) == []


def test_a_table_beside_a_text_is_one_text() -> None:
    assert troubles_of(["What was the revenue of the whole group in the last year?", "1 | 2 | 3"]) == []


def test_every_kind_says_what_to_do() -> None:
    assert all(trouble.advice and not trouble.advice.endswith(".") for trouble in TROUBLES.values())
