"""`collegium client page` as it is typed: a real port, a new token, and nothing left when it has ended."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from client.dashboard.children import Child


def test_it_serves_until_it_is_stopped(folder: Path) -> None:
    state, file = folder / "state", folder / "institution.toml"
    state.joinpath("page.token").write_text("of one that was killed\n")
    command = [sys.executable, "-m", "collegium", "client", "page", str(file), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        try:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/sign-in", url)
            assert state.joinpath("page.token").stat().st_mode & 0o777 == 0o600
            token = state.joinpath("page.token").read_text().strip()
            with httpx.Client(follow_redirects=True, trust_env=False) as browser:
                origin = {"origin": url.removesuffix("/sign-in")}
                wrong = browser.post(url, data={"token": "of one that was killed"}, headers=origin)
                assert wrong.status_code == 401
                answer = browser.post(url, data={"token": token}, headers=origin)
                assert "Round 4 of 8" in answer.text
                with browser.stream("GET", f"{answer.url}live") as live:
                    assert any('hx-target="#held"' in text for text in live.iter_text())
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not state.joinpath("page.token").exists()


@pytest.mark.slow
def test_the_command_line_answers_for_the_ledger(folder: Path) -> None:
    child = Child(("client", "ledger", str(folder / "institution.toml"), "--verify"))
    child.ask()
    assert child._thread
    child._thread.join(120)
    assert child.told
    assert child.told.found is None, "the receipts name a ledger, and there is none"
    for path in (folder / "state").glob("receipts*"):
        path.unlink()
    child.ask()
    child._thread.join(120)
    assert child.told.found
    assert child.told.found["datasets"] == []
