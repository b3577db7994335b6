"""Each notice arrives once, at real servers for mail and HTTP, whatever fails meanwhile."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError, StoreError
from shared.watching.notices import FOLD_SECONDS, Notice, Notifier, check_notifying, mark, send, urls_of, watch
from simulations.demo import free_ports

ABSENT = Notice("absent:bank", "bank is absent", "It has missed 3 rounds.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "notify.urls"
    path.touch(mode=0o600)
    path.write_text("# mine\njson://127.0.0.1:9/one\n\njson://127.0.0.1:9/two\n")
    return path


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Post:
    """Takes notices, or some of them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str] | None]] = []
        self.failing: list[str] = []

    def __call__(self, file: Path, notice: Notice, only: Sequence[str] | None) -> list[str]:
        self.sent.append((notice.text, None if only is None else list(only)))
        return list(self.failing)


def notifier(file: Path, post: Post, clock: Clock, said: list[str] | None = None) -> Notifier:
    return Notifier(file, file.with_name("notices.json"), (said if said is not None else []).append, post, clock)


def test_what_holds_is_told_once_and_over_restarts(file: Path) -> None:
    post, clock = Post(), Clock()
    for _ in range(2):
        mine = notifier(file, post, clock)
        for _ in range(3):
            mine.look([ABSENT])
            clock.now += 5
    assert post.sent == [(ABSENT.text, None)]
    assert mine.since == 1000.0


def test_what_comes_back_is_folded(file: Path) -> None:
    post, clock = Post(), Clock()
    mine = notifier(file, post, clock)
    for _ in range(4):
        mine.look([ABSENT])
        mine.look([])
        clock.now += 60
    assert len(post.sent) == 1
    clock.now += FOLD_SECONDS
    mine.look([ABSENT])
    assert [text for text, _ in post.sent] == [ABSENT.text, f"{ABSENT.text} (4 times since the last notice.)"]
    mine.look([ABSENT, Notice("other", "x", "y")])
    assert len(post.sent) == 3


def test_only_who_did_not_get_it_is_tried_again_and_the_operator_hears_once(file: Path) -> None:
    post, clock, said = Post(), Clock(), list[str]()
    mine = notifier(file, post, clock, said)
    post.failing = ["b"]
    mine.look([ABSENT])
    mine.look([ABSENT])
    assert len(post.sent) == 1, "it waits before the next try"
    for _ in range(2):
        clock.now += 600
        mine.look([ABSENT])
    post.failing = []
    clock.now += 600
    mine.look([ABSENT])
    clock.now += 6000
    mine.look([ABSENT])
    assert post.sent == [(ABSENT.text, None), *[(ABSENT.text, ["b"])] * 3]
    assert len(said) == 1
    assert "bank is absent" in said[0]


def test_one_that_nobody_takes_is_given_up_after_a_day(file: Path) -> None:
    post, clock = Post(), Clock()
    mine = notifier(file, post, clock)
    post.failing = ["b"]
    for _ in range(60):
        mine.look([ABSENT])
        clock.now += 3600
    assert 20 < len(post.sent) < 30


def test_what_goes_wrong_is_said_once(file: Path) -> None:
    said, looks = list[str](), iter([False, False, True])

    def broken(since: float) -> list[Notice]:
        raise StoreError("The store is locked.")

    watch(notifier(file, Post(), Clock()), broken, over=lambda seconds: next(looks), announce=said.append)
    assert said == ["Notices cannot be looked for: The store is locked."]


def test_a_file_that_others_may_read_or_without_an_address_is_refused(file: Path) -> None:
    assert urls_of(file) == ["json://127.0.0.1:9/one", "json://127.0.0.1:9/two"]
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        check_notifying(file)
    file.chmod(0o600)
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="there is none"):
        check_notifying(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_notifying(file.with_name("missing"))


@contextmanager
def web_hook() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A real server on loopback, and what it was sent."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_mail_and_web_hook_get_each_notice_once(file: Path) -> None:
    pytest.importorskip("apprise", reason="apprise, which sends notices, is not installed")
    controllers = pytest.importorskip("aiosmtpd.controller", reason="aiosmtpd, a mail server, is not installed")
    letters: list[str] = []

    class Inbox:
        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802
            letters.append(envelope.content.decode())
            return "250 OK"

    (port,) = free_ports(1)
    inbox = controllers.Controller(Inbox(), hostname="127.0.0.1", port=port)
    inbox.start()
    try:
        with web_hook() as (hook, heard):
            mail = f"mailto://127.0.0.1:{port}?mode=insecure&from=collegium@example.org&to=operator@example.org"
            dead = f"json://127.0.0.1:{free_ports(1)[0]}/nobody"
            file.write_text(f"{mail}\njson://127.0.0.1:{hook}/notice\n{dead}\n")
            failed = send(file, ABSENT, None)
            again = send(file, ABSENT, failed)
    finally:
        inbox.stop()
    assert failed == again == [mark(dead)]
    assert [(each["title"], each["message"]) for each in heard] == [("Collegium: bank is absent", ABSENT.text)]
    (letter,) = letters
    assert "Subject: Collegium: bank is absent" in letter
    assert "It has missed 3 rounds." in letter
