"""Whether open pages slow a round: runs of a real deployment, in turns with nobody looking and with twenty pages open.

    python -m simulations.benchmarks.watched --turns 5

Three institutions over a random BERT of two layers. An open page is what a browser makes of it: a connection over TLS
that is signed in and follows the run by server-sent events. Seconds are those of rounds after the first, by the clock.
"""

import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import httpx
import typer

from server.home import ServerHome, read_settings
from server.opening import open_store
from server.runs.steering import follow, start
from server.store import rounds
from shared.process.console import announce, print_table
from simulations.attacks.coordinator import trusting
from simulations.chaos.playing import tiny_experiment
from simulations.demo import standing


def main(
    turns: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 5,
    pages: Annotated[int, typer.Option(min=1, help="Pages that are open, every other run.")] = 20,
) -> None:
    """Measure, and print a table."""
    found: dict[int, list[float]] = {0: [], pages: []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        with standing(tiny_experiment(folder / "records"), folder / "deployed", announce) as (home, check):
            follow(home.root, start(home.root).run_id, announce, seen=0, check=check)  # whose processes are new
            for _ in range(turns):
                for looking, seconds in found.items():
                    run = start(home.root).run_id
                    with opened(home, run, looking) as sent:
                        follow(home.root, run, lambda _: None, seen=0, check=check)
                    with open_store(home.root) as store:
                        seconds.append(statistics.median(row["seconds"] for row in store.rows(rounds, run)[1:]))
                    announce(f"{looking} pages: {seconds[-1]:.2f} s a round, {sum(sent) / 1000:.0f} kB sent to pages")
    ratios = [with_pages / without for without, with_pages in zip(found[0], found[pages], strict=True)]
    shown = {f"{count} pages, s a round": seconds for count, seconds in found.items()} | {"ratio": ratios}
    rows = [[what, statistics.median(values), min(values), max(values)] for what, values in shown.items()]
    print_table(["what", "median", "least", "most"], rows, title=f"{turns} runs of each, {os.cpu_count()} cores")


@contextmanager
def opened(home: ServerHome, run: str, count: int) -> Iterator[list[int]]:
    """So many pages that follow a run; bytes that each has been sent."""
    url, sent = f"https://127.0.0.1:{read_settings(home).operator_port}", [0] * count
    with ExitStack() as ends:
        http = ends.enter_context(httpx.Client(base_url=url, verify=trusting(home), timeout=60.0, trust_env=False))
        if count:
            form = {"token": home.operator_token}
            assert http.post("/page/sign-in", data=form, headers={"origin": url}).status_code == 303
        over = threading.Event()

        def look(number: int) -> None:
            with http.stream("GET", f"/page/runs/{run}/live") as answer:
                for part in answer.iter_raw():
                    sent[number] += len(part)
                    if over.is_set():
                        return

        threads = [threading.Thread(target=look, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield sent
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
    assert all(sent), "a page was sent nothing"


if __name__ == "__main__":
    typer.run(main)
