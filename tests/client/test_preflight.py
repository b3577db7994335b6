"""What `up` refuses, `doctor` names, all at once, and `simulate` says in the same words."""

import copy
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.keys import generate_node_key
from client.leaving.receipts import FILE as RECEIPTS
from client.opening import open_site
from client.privacy.ledger import FILE as LEDGER
from client.service import daemon
from server.enrolment.authority import create_authority
from shared.errors import CollegiumError
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.attacks.stage import TINY_RECORDS
from simulations.experiment import load_experiment, open_sites

PRIVATE = {
    "privacy": {"epsilon": 8.0, "sampling_rate": 1.0},
    "rounds": {"weighting": "equal"},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
    "adapter": {"dropout": 0.0},
}


@dataclass
class Files:
    """A site's folder and its files as plain data, to be broken."""

    folder: Path
    institution: dict[str, Any]
    federation: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(TINY_RECORDS["clauses"]))

    def change(self, tables: Mapping[str, Any]) -> None:
        """Change tables of the federation file."""
        for name, table in tables.items():
            self.federation[name] = self.federation.get(name, {}) | table

    def write(self) -> None:
        """Put all on disk, and an experiment of the same."""
        data = self.institution["data"]
        (self.folder / "institution.toml").write_text(tomli_w.dumps(self.institution), encoding="utf-8")
        (self.folder / "federation.toml").write_text(tomli_w.dumps(self.federation), encoding="utf-8")
        experiment = {"federation": self.federation, "institutions": {"hospital": data}, "baselines": []}
        (self.folder / "experiment.toml").write_text(tomli_w.dumps(experiment), encoding="utf-8")
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        (self.folder / "train.jsonl").write_text(lines, encoding="utf-8")

    def doctor(self) -> list[str]:
        """What the doctor calls an error of the start, or of records; its own error if it has no report."""
        result = CliRunner().invoke(app, ["doctor", "--no-forecast", str(self.folder / "institution.toml"), "--json"])
        if isinstance(result.exception, CollegiumError):
            return [str(result.exception)]
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        found = json.loads(result.stdout)["findings"]
        said = [f["text"] for f in found if f["verdict"] != "ok" and f["check"] in ("start", "rows", "table")]
        assert result.exit_code == any(f["verdict"] == "error" for f in found)
        return said

    def up(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """What the daemon says; in the place of its children, the site is opened here as the executor opens it."""
        path = self.folder / "institution.toml"
        monkeypatch.setattr(daemon, "supervise", lambda *_, **__: open_site(path))
        try:
            daemon.serve(path, stop=threading.Event(), announce=lambda _: None)
        except CollegiumError as error:
            return str(error)
        return ""

    def simulate(self) -> str:
        """What the simulator says of the same federation and the same data."""
        try:
            experiment = load_experiment(self.folder / "experiment.toml")
            open_sites(experiment, build_model(experiment.federation))
        except CollegiumError as error:
            return str(error)
        return ""


@pytest.fixture
def files(tmp_path: Path, tiny_federation: Callable[..., Federation], tiny_bert: Path) -> Files:
    """A site that starts."""
    backbone = tmp_path / "bert"
    shutil.copytree(tiny_bert, backbone)
    federation = tiny_federation(["hospital"]).model_dump(mode="json", exclude_none=True)
    federation["backbone"]["name"] = str(backbone)
    folder = tmp_path / "site"
    folder.mkdir()
    generate_node_key(folder / "node.key")
    (folder / "ca.crt").write_bytes(create_authority("of a test").certificate)
    return Files(folder, {"name": "hospital", "data": {"clauses": {"train": "train.jsonl"}}}, federation)


def test_a_site_that_starts(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write()
    before = sorted(path for path in files.folder.rglob("*"))
    assert files.doctor() == []
    assert sorted(path for path in files.folder.rglob("*")) == before, "the doctor writes nothing"
    assert files.up(monkeypatch) == files.simulate() == ""
    assert files.doctor() == [], "nor does what a start has made trouble it"


def forget_label(files: Files) -> None:
    files.records[3] = {"text": "No label."}


def add_gossip(files: Files) -> None:
    files.records += [{"text": "x", "label": "gossip"}] * 7


def drop_records(files: Files) -> None:
    files.records.clear()


def one_owner(files: Files) -> None:
    files.records = [record | {"who": "P1"} for record in files.records]
    files.institution["data"]["clauses"] |= {"group_by": "who", "limit": 0.001}


def misspell_owner(files: Files) -> None:
    files.institution["data"]["clauses"]["group_by"] = "patient"


def misspell_rename(files: Files) -> None:
    files.institution["data"]["clauses"]["rename"] = {"pay": "paymant"}


def lose_synonyms(files: Files) -> None:
    files.institution["data"]["clauses"]["augmentation"] = {"replace": 0.1, "synonyms": "none.json"}


def lose_file(files: Files) -> None:
    files.institution["data"]["clauses"]["test"] = "test.jsonl"


def unknown_task(files: Files) -> None:
    files.institution["data"]["gossip"] = {"train": "train.jsonl"}


def other_name(files: Files) -> None:
    files.institution["name"] = "clinic"


def other_backbone(files: Files) -> None:
    files.federation["backbone"]["sha256"] = "0" * 64


def lose_tokenizer(files: Files) -> None:
    for file in Path(files.federation["backbone"]["name"]).glob("*"):
        if "token" in file.name or file.name == "vocab.txt":
            file.unlink()


def too_long(files: Files) -> None:
    files.federation["backbone"]["max_length"] = 512


def unknown_layer(files: Files) -> None:
    files.federation["adapter"]["target_modules"] = ["query", "kwery"]


def too_wide(files: Files) -> None:
    files.federation["rounds"]["method"] = "ffa"
    files.federation["adapter"]["rank"] = 40


def high_rank(files: Files) -> None:
    files.institution["adapter"] = {"rank": 3}


def no_device(files: Files) -> None:
    files.institution["runtime"] = {"device": "cuda:99"}


def impossible_privacy(files: Files) -> None:
    files.change(PRIVATE | {"privacy": {"epsilon": 1e-6, "sampling_rate": 0.1}})


def number_under_privacy(files: Files) -> None:
    files.change(PRIVATE)
    files.institution["data"]["clauses"]["limit"] = 10


def no_budget(files: Files) -> None:
    files.change(PRIVATE | {"privacy": {"noise_multiplier": 1.0, "sampling_rate": 1.0}})


def large_delta(files: Files) -> None:
    files.change(PRIVATE | {"privacy": {"epsilon": 8.0, "sampling_rate": 1.0, "delta": 0.01}})


def edit_ledger(files: Files) -> None:
    files.change(PRIVATE)
    (files.folder / "state").mkdir(mode=0o700)
    (files.folder / "state" / LEDGER).write_text("gossip\n")


def lose_receipts(files: Files) -> None:
    (files.folder / "state").mkdir(mode=0o700)
    (files.folder / "state" / RECEIPTS).write_text("gossip\n")


def shorten_split_key(files: Files) -> None:
    (files.folder / "state").mkdir(mode=0o700)
    (files.folder / "state" / "split.key").touch(0o600)


def private_only(files: Files) -> None:
    files.institution["policy"] = {"require_dp": True}


def unapproved(files: Files) -> None:
    files.institution["policy"] = {"federations": ["0" * 64]}


def few_owners(files: Files) -> None:
    files.institution["policy"] = {"minimum_owners": 100}


def no_task_allowed(files: Files) -> None:
    files.institution["policy"] = {"tasks": ["entities"]}


def no_counts(files: Files) -> None:
    files.institution["policy"] = {"counts": "none"}


def no_score_budget(files: Files) -> None:
    files.institution["policy"] = {"metrics": "private"}


def lose_key(files: Files) -> None:
    (files.folder / "node.key").unlink()


def show_key(files: Files) -> None:
    (files.folder / "node.key").chmod(0o644)


def garble_key(files: Files) -> None:
    (files.folder / "node.key").write_text("gossip")


def lose_certificate(files: Files) -> None:
    (files.folder / "ca.crt").unlink()


def garble_certificate(files: Files) -> None:
    (files.folder / "ca.crt").write_text("gossip")


def file_for_state(files: Files) -> None:
    (files.folder / "state").touch()


def nowhere_for_state(files: Files) -> None:
    files.institution["runtime"] = {"state": "/sys/collegium"}


def malformed_address(files: Files) -> None:
    files.institution["server"] = {"address": "https://localhost:8443"}


def impossible_port(files: Files) -> None:
    files.institution["server"] = {"address": "localhost:99999"}


def malformed_port(files: Files) -> None:
    files.institution["runtime"] = {"port": 99999}


def infinite_rate(files: Files) -> None:
    files.federation["training"]["learning_rate"] = float("inf")


EVERYWHERE: dict[Callable[[Files], None], str] = {
    forget_label: "line 4: expected a label in 'label', but there is none",
    add_gossip: "7 of 31 rows .*line 25: label 'gossip' is not among .*and 2 more bad rows",
    drop_records: "the file is empty",
    one_owner: "all 1 are held out or left out",
    misspell_owner: r"expected an owner in the column 'patient' \(group_by\)",
    misspell_rename: r"data.clauses.rename to name labels among",
    lose_synonyms: r"Expected synonyms",
    lose_file: "Expected a data file at .*test.jsonl, but there is none",
    unknown_task: "no task 'gossip'",
    other_backbone: "with fingerprint 000000000000",
    lose_tokenizer: "in the backbone folder .*, but it is missing",
    too_long: "backbone.max_length must be at most 128",
    unknown_layer: r"target_modules must be among .*, not \['kwery'\]",
    too_wide: "adapter.rank must be at most 32",
    impossible_privacy: "Expected a target epsilon that noise can meet",
    no_budget: "Expected policy.max_epsilon",
    large_delta: "accepts a delta of at most 1e-05",
    infinite_rate: "training.learning_rate: input should be a finite number, not inf",
}
AT_A_SITE: dict[Callable[[Files], None], str] = {
    other_name: "but it is 'clinic'",
    high_rank: "Expected adapter.rank between",
    no_device: "runtime.device must be",
    number_under_privacy: "limit as a share below 1",
    edit_ledger: LEDGER,
    lose_receipts: RECEIPTS,
    shorten_split_key: "Expected a key of 32 bytes",
    private_only: "policy.require_dp",
    unapproved: "policy.federations",
    few_owners: "policy.minimum_owners",
    no_task_allowed: "Expected policy.tasks to allow",
    no_counts: "policy.counts",
    no_score_budget: "Expected policy.evaluation_epsilon",
    lose_key: "Expected this institution's private key",
    show_key: "chmod 600",
    garble_key: "its content is something else",
    lose_certificate: "get ca.crt from the coordinator",
    garble_certificate: "get ca.crt from the coordinator",
    file_for_state: "Expected a folder that can be written to",
    nowhere_for_state: "Expected a folder that can be written to",
    malformed_address: "server.address",
    impossible_port: "server.address: the port must be from 1 to 65535",
    malformed_port: "runtime.port",
}


@pytest.mark.parametrize("broken", [*EVERYWHERE, *AT_A_SITE], ids=lambda broken: broken.__name__)
def test_what_up_refuses_the_doctor_names(
    files: Files, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Files], None]
) -> None:
    if broken is nowhere_for_state and not Path("/sys").is_dir():
        pytest.skip("no folder here that not even root may write to")
    broken(files)
    files.write()
    (doctor,) = files.doctor()
    assert re.search((EVERYWHERE | AT_A_SITE)[broken], doctor), doctor
    if broken in EVERYWHERE:
        assert files.simulate().replace("federation.training", "training").replace("experiment", "federation") == doctor
    assert files.up(monkeypatch) == doctor


def test_what_is_not_there_before_enrolment_is_a_warning(files: Files) -> None:
    lose_key(files)
    lose_certificate(files)
    files.write()
    assert len(files.doctor()) == 2
    assert CliRunner().invoke(app, ["doctor", "--no-forecast", str(files.folder / "institution.toml")]).exit_code == 0


def test_everything_is_said_at_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (other_name, private_only, high_rank, forget_label, lose_file, too_long, shorten_split_key):
        broken(files)
    files.write()
    doctor = files.doctor()
    assert len(doctor) == 7
    up = files.up(monkeypatch)
    for sentence in doctor:
        assert sentence in up
        up = up.replace(sentence, "")
    assert not up.strip(), "the daemon has no other reason"


def test_without_a_tokenizer_the_rest_is_said_all_the_same(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (lose_tokenizer, forget_label, private_only):
        broken(files)
    files.write()
    (doctor,) = files.doctor()
    assert all(words in doctor for words in ("backbone folder", "line 4:", "policy.require_dp"))
    assert sorted(files.up(monkeypatch)) == sorted(doctor)


def test_a_port_that_is_taken(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        files.institution["runtime"] = {"port": taken.getsockname()[1]}
        files.write()
        (doctor,) = files.doctor()
        assert files.up(monkeypatch) == doctor
        assert "but it is taken" in doctor


def test_a_site_that_is_being_served(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write()
    path = files.folder / "institution.toml"
    said: list[str] = []
    monkeypatch.setattr(daemon, "supervise", lambda *_, **__: said.extend(files.doctor()))
    daemon.serve(path, stop=threading.Event(), announce=lambda _: None)
    assert said == [
        f"process {os.getpid()} serves the state folder {files.folder / 'state'}; " + said[0].split("; ")[1]
    ]
