"""What is written on a page is escaped, and no character of it steers anything."""

from pathlib import Path

import pytest

from shared.page.rendering import Pages, duration, moment, size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\x1b[2Jgone", "\N{REPLACEMENT CHARACTER}[2Jgone"),
        ("a\u202eb", "a\N{REPLACEMENT CHARACTER}b"),
        ("' onclick='x", "&#39; onclick=&#39;x"),
        (None, "–"),  # noqa: RUF001
        (3, "3"),
    ],
)
def test_all_that_a_template_is_given_is_escaped(text: object, shown: str, tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text("{{ text }}")
    assert Pages(tmp_path, "/x", "/x").render("one.html", {"text": text}) == shown


def test_numbers_and_times_as_people_read_them() -> None:
    assert [size(each) for each in (0, 2048, 5 * 2**20, None)] == ["0 B", "2.0 KiB", "5.0 MiB", "–"]  # noqa: RUF001
    assert [duration(each) for each in (1.25, 42.0, 600.0, 7200.0)] == ["1.2 s", "42 s", "10 min", "2.0 h"]
    assert moment("2026-11-29T20:00:01.5+01:00") == "2026-11-29 19:00:01"
    assert moment("<b>") == "<b>", "and escaped where it stands"
