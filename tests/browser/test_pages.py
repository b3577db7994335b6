"""Both pages in a real browser, beside a real deployment: a run from start to end, and what people do meanwhile.

Needs Chromium and `pip install -e '.[browser]'`; with COLLEGIUM_AXE, the path of axe.min.js, the pages are also
looked at for what keeps people from using them.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.institution import Data
from server.dashboard.address import address
from server.home import ServerHome
from server.opening import open_store
from server.service.operator import OperatorClient
from shared.federation import Federation
from simulations import demo
from simulations.experiment import Experiment

playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
NAMES = ("hospital", "law_firm")
SECONDS = 240_000.0
"""Milliseconds, for what takes a round."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def experiment(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
) -> Experiment:
    """Two institutions with one task, and two rounds."""
    folder = tmp_path_factory.mktemp("records")

    def data(name: str) -> dict[str, Data]:
        train, test = (
            write_records(folder / name / f"clauses.{split}.jsonl", "clauses", slice(start, None, 2))
            for start, split in enumerate(("train", "test"))
        )
        return {"clauses": Data(train=train, test=test)}

    federation = tiny_federation(NAMES, rounds={"quorum": 2, "count": 2, "deadline_seconds": 300})
    return Experiment(federation=federation, institutions={name: data(name) for name in NAMES})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> Iterator[ServerHome]:
    """A coordinator that serves, with both institutions; the hospital releases updates by hand."""
    make = demo._make_institution

    def holding(workdir: Path, home: ServerHome, experiment: Experiment, name: str, port: int) -> Path:
        file = make(workdir, home, experiment, name, port)
        if name == "hospital":
            values = tomllib.loads(file.read_text(encoding="utf-8"))
            file.write_text(tomli_w.dumps(values | {"policy": {"hold": True, "hold_seconds": 280.0}}), encoding="utf-8")
        return file

    folder = tmp_path_factory.mktemp("pages") / "deployed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_make_institution", holding)
        with demo.standing(experiment, folder, lambda _: None) as (served, _):
            yield served


@pytest.fixture(scope="module")
def site(home: ServerHome) -> Iterator[tuple[str, str]]:
    """The hospital's page: its address and its token."""
    file = home.root.parent / "hospital" / "institution.toml"
    command = [sys.executable, "-m", "collegium", "client", "page", str(file), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        yield url, (file.parent / "state" / "page.token").read_text().strip()
        process.send_signal(signal.SIGTERM)


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def opened(browser: Any, url: str, token: str, **more: Any) -> Any:
    """A page where somebody has signed in; whatever the browser complains of fails the test."""
    page = browser.new_context(ignore_https_errors=True, **more).new_page()
    page.complaints = []
    page.on(
        "console", lambda said: said.type == "error" and "401" not in said.text and page.complaints.append(said.text)
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    return page


def look_at(page: Any) -> None:
    """Nothing serious that keeps people from using it, and nothing that is wider than the page."""
    if axe := os.environ.get("COLLEGIUM_AXE"):
        # By the debugger: the page's own policy lets no script of another in.
        session = page.context.new_cdp_session(page)
        session.send("Runtime.evaluate", {"expression": Path(axe).read_text(encoding="utf-8") + ";0"})
        found = page.evaluate(
            "axe.run().then(found => found.violations.map(each => [each.impact, each.id, each.nodes.length]))"
        )
        assert [each for each in found if each[0] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def confirm(page: Any, verb: str) -> None:
    page.get_by_role("main").get_by_role("button", name=verb).click()


def test_a_run_is_started_released_and_watched_and_an_institution_revoked(
    home: ServerHome, site: tuple[str, str], browser: Any
) -> None:
    coordinator = opened(browser, address(home).url, home.operator_token)
    hospital = opened(browser, *site)
    look_at(coordinator)
    look_at(hospital)

    coordinator.get_by_role("link", name="Start a run").click()
    confirm(coordinator, "Start")
    expect = playwright.expect
    expect(coordinator.get_by_role("status").first).to_contain_text("is queued")
    for number in (1, 2):
        coordinator.bring_to_front()
        progress = coordinator.locator("#progress")
        expect(progress).to_contain_text(f"Round {number} of 2", timeout=SECONDS)
        expect(progress).to_contain_text("Waiting for hospital, until", timeout=SECONDS)
        hospital.bring_to_front()  # a page that is not seen waits with what it is sent
        approve = hospital.get_by_role("link", name="Approve")
        expect(approve).to_be_visible(timeout=SECONDS)
        look_at(hospital)
        approve.click()
        confirm(hospital, "Approve")
        expect(hospital.get_by_role("status").first).to_contain_text("is approved")
        expect(hospital.locator("#now")).to_contain_text(f"Round {number}", timeout=SECONDS)
    coordinator.bring_to_front()
    expect(coordinator.locator("#progress")).to_contain_text("completed", timeout=SECONDS)
    expect(coordinator.locator("#events")).to_contain_text("The run has completed", timeout=SECONDS)
    expect(hospital.locator("#left")).to_contain_text("train")
    look_at(coordinator)

    coordinator.reload()
    expect(coordinator.get_by_role("heading", name="Release")).to_be_visible()
    expect(coordinator.locator(".chart canvas")).to_be_visible()
    with coordinator.expect_download() as download:
        coordinator.get_by_role("link", name="Download the bundle").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert "bundle/adapter/adapter_model.safetensors" in bundle.namelist()

    coordinator.get_by_role("link", name="Agreement and members").click()
    look_at(coordinator)
    coordinator.get_by_role("link", name="Revoke law_firm").click()
    coordinator.get_by_label("Type law_firm").fill("law_firm")
    look_at(coordinator)
    confirm(coordinator, "Revoke")
    expect(coordinator.get_by_role("status").first).to_contain_text("Revoked law_firm")
    with OperatorClient(home) as operator:
        assert [node.name for node in operator.nodes()] == ["hospital"]

    hospital.get_by_role("link", name="What left").click()
    confirm(hospital, "Verify now")
    expect(hospital.get_by_role("status").first).to_contain_text("none edited, missing or moved")
    look_at(hospital)
    for page in (coordinator, hospital):
        page.set_viewport_size({"width": 360, "height": 780})
        page.emulate_media(color_scheme="dark")
        look_at(page)
        assert page.complaints == []
    with open_store(home.root) as store:
        assert store.run()["status"] == "completed"


def test_a_page_that_others_serve_gets_nothing_and_sends_nothing(
    home: ServerHome, site: tuple[str, str], browser: Any, tmp_path: Path
) -> None:
    """A form of another origin, in the browser in which the operator has signed in."""
    hospital = opened(browser, *site)
    root = hospital.url.rstrip("/")
    other = hospital.context.new_page()
    evil = tmp_path / "evil"
    evil.mkdir()
    form = f'<form id="f" method="post" action="{root}/do/check"><input name="csrf" value="x"></form>'
    (evil / "index.html").write_text(f'{form}<img id="i" src="{root}/agreement"><p>evil</p>')
    (port,) = demo.free_ports(1)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(evil)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                with contextlib.suppress(playwright.Error):
                    other.goto(f"http://127.0.0.1:{port}/")
                    break
                other.wait_for_timeout(100)
            with other.expect_navigation() as sent:
                other.evaluate("document.getElementById('f').submit()")
            assert sent.value.status == 403
            assert "another site" in other.content()
        finally:
            server.terminate()
