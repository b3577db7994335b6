"""One data set over many institutions: nothing lost, nothing twice, as skewed as asked for."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.loading import read_records
from server.store import Store, scores
from shared.adapter import get_state
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.fields import Split
from shared.model.multitask import build_model
from shared.tasks import Record, Task, build_task
from shared.tasks.text_classification import TextClassificationSpec
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites
from simulations.partition import Partition, assign, partition, site_names, stratum
from simulations.samples import SAMPLES

LABELS = ("a", "b", "c", "d")
SPEC: dict[str, Any] = {"type": "text-classification", "labels": LABELS}
SIZES: dict[Split, int] = {"train": 400, "validation": 60, "test": 80}


def task() -> Task:
    return build_task("notes", TextClassificationSpec(**SPEC))


def records(split: Split) -> list[Record]:
    rng = np.random.default_rng(len(split))
    return [
        {"text": f"{split} {i}", "label": str(rng.choice(LABELS, p=[0.5, 0.3, 0.15, 0.05])), "doc": f"{split} {i // 7}"}
        for i in range(SIZES[split])
    ]


HELD: dict[Split, Sequence[Record]] = {split: records(split) for split in SIZES}


def plan(tmp_path: Path, **values: Any) -> Partition:
    for split, rows in HELD.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {split: tmp_path / f"{split}.jsonl" for split in SIZES}
    return Partition.model_validate({"data": data, "institutions": 8, "kind": "iid", "least": 5} | values)


def owners(split: Partition, *, seed: int | None = None) -> np.ndarray:
    """The institution of every training record."""
    found = np.full(SIZES["train"], -1)
    for number, share in enumerate(assign(split, task(), HELD, np.random.default_rng(seed or split.seed))):
        found[list(share["train"])] = number
    return found


def skew(of: np.ndarray) -> float:
    """Mean over institutions of the total variation distance between their labels and everybody's."""
    labels = np.array([row["label"] for row in HELD["train"]])
    whole = np.array([(labels == label).mean() for label in LABELS])
    own = [np.array([(labels[of == i] == label).mean() for label in LABELS]) for i in np.unique(of)]
    return float(np.mean([np.abs(mix - whole).sum() / 2 for mix in own]))


KINDS: list[dict[str, Any]] = [
    {},
    {"kind": "dirichlet", "alpha": 0.05},
    {"kind": "dirichlet", "alpha": 1.0, "common_test": False},
    {"kind": "by", "field": "doc"},
    {"kind": "by", "field": "doc", "common_test": False},
]


@pytest.mark.parametrize("values", KINDS)
def test_every_record_goes_to_exactly_one_institution(tmp_path: Path, values: dict[str, Any]) -> None:
    said: list[str] = []
    shares = partition(plan(tmp_path, **values), task(), tmp_path / "parts", said.append)
    assert list(shares) == site_names(8)
    for split, whole in HELD.items():
        files = [file for share in shares.values() if (file := getattr(share, split))]
        found = [json.dumps(row) for file in files for row in read_records(file, task())]
        assert sorted(found) == sorted(json.dumps(row) for row in whole)
        if split == "test" and values.get("common_test", True):
            assert len(files) == 1
            assert shares["site-01"].test in files
    assert all(len(read_records(share.train, task())) >= 5 for share in shares.values())
    assert sum(int(line.split()[1]) for line in said) == SIZES["train"]
    assert [line.split(":")[0] for line in said] == list(shares)
    counted = Counter[str]()
    for line in said:
        counted.update({item.split()[0]: int(item.split()[1]) for item in line.split(": ")[-1].split(", ")})
    assert counted == Counter(row["label"] for row in HELD["train"])


def test_the_same_seed_gives_the_same_parts_and_another_others(tmp_path: Path) -> None:
    def parts(seed: int, **values: Any) -> list[str]:
        shares = partition(plan(tmp_path, seed=seed, **values), task(), tmp_path / "parts", lambda _: None)
        return [share.train.read_text() for share in shares.values()]

    for values in KINDS:
        assert parts(13, **values) == parts(13, **values)
        assert parts(13, **values) != parts(14, **values)


def test_alpha_decides_the_skew(tmp_path: Path) -> None:
    def mean_skew(**values: Any) -> float:
        return float(np.mean([skew(owners(plan(tmp_path, **values), seed=seed)) for seed in range(1, 11)]))

    even = mean_skew()
    by_alpha = [mean_skew(kind="dirichlet", alpha=alpha, least=1) for alpha in (1e5, 1.0, 0.1)]
    assert even < 0.12
    assert by_alpha[0] < even  # the proportions are then exact, without the chance in an even draw
    assert even + 0.1 < by_alpha[1] < by_alpha[2] - 0.1
    assert by_alpha[2] > 0.4


def test_a_label_is_shared_out_as_the_distribution_says(tmp_path: Path) -> None:
    """Over many draws the share of a label has the mean 1/N and variance (1/N)(1-1/N)/(N alpha + 1) of a Dirichlet."""
    number, alpha = 4, 0.5
    split = plan(tmp_path, kind="dirichlet", alpha=alpha, institutions=number, least=1)
    mine = np.array([row["label"] == "a" for row in HELD["train"]])
    shares = np.array([(owners(split, seed=seed)[mine] == 1).mean() for seed in range(1, 401)])
    variance = (1 / number) * (1 - 1 / number) / (number * alpha + 1)
    assert shares.mean() == pytest.approx(1 / number, abs=0.04)
    assert shares.var() == pytest.approx(variance, rel=0.15)


def test_validation_records_are_split_as_the_training_records_are(tmp_path: Path) -> None:
    split = plan(tmp_path, kind="dirichlet", alpha=0.1)
    shares = assign(split, task(), HELD, np.random.default_rng(1))
    labels = {name: [row["label"] for row in HELD[name]] for name in SIZES}
    for label in LABELS[:2]:  # the most frequent ones: of the others there are few
        parts = {
            name: np.array([sum(labels[name][i] == label for i in share[name]) for share in shares], float)
            for name in ("train", "validation")
        }
        train, validation = (part / part.sum() for part in parts.values())
        assert np.abs(train - validation).sum() / 2 < 0.15


def test_institutions_with_next_to_nothing_are_filled_up(tmp_path: Path) -> None:
    counts = np.bincount(owners(plan(tmp_path, kind="dirichlet", alpha=0.001, institutions=20, least=6)), minlength=20)
    assert counts.min() == 6
    assert counts.max() > 60


def test_whole_documents_stay_together(tmp_path: Path) -> None:
    held = {**HELD, "test": [*HELD["test"], {"text": "late", "label": "a", "doc": "train 3"}]}
    split = plan(tmp_path, kind="by", field="doc", common_test=False)
    shares = assign(split, task(), held, np.random.default_rng(13))
    holders: dict[str, set[int]] = {}
    for number, share in enumerate(shares):
        for name, rows in share.items():
            for row in rows:
                holders.setdefault(held[name][row]["doc"], set()).add(number)
    assert all(len(numbers) == 1 for numbers in holders.values())
    sizes = [len(share["train"]) for share in shares]
    assert max(sizes) - min(sizes) <= 7


def test_a_record_of_several_labels_counts_under_its_most_frequent() -> None:
    several = build_task("notes", TextClassificationSpec(**SPEC, multi_label=True))
    assert stratum(several, {"text": "x", "labels": ["c", "a"]}) == "c"
    assert stratum(several, {"text": "x", "labels": []}) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "dirichlet"}, "alpha must be given with kind 'dirichlet'"),
        ({"alpha": 1.0}, "alpha must be given with kind 'dirichlet', and only then"),
        ({"kind": "by"}, "field must be given with kind 'by'"),
        ({"institutions": 1}, "greater than or equal to 2"),
        ({"kind": "dirichlet", "alpha": 0.0}, "greater than or equal to 0.001"),
    ],
)
def test_a_plan_that_cannot_be(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"institutions": 100}, ConfigError, r"at least 500 training records .* 400 came; lower partition\.notes\."),
        ({"kind": "by", "field": "author"}, DataError, r"'author' in every train record .* \['doc', 'label', 'text'\]"),
        ({"kind": "by", "field": "label"}, ConfigError, r"whole values of 'label' leave one with 0"),
    ],
)
def test_records_that_cannot_be_split_so(
    tmp_path: Path, values: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        partition(plan(tmp_path, **values), task(), tmp_path / "parts", lambda _: None)


EXPERIMENT = """
[federation]
name = "split"
[federation.rounds]
count = 1
{rounds}
[federation.tasks.clauses]
type = "text-classification"
labels = ["confidentiality", "termination", "liability", "payment", "governing_law"]
[partition.clauses]
data = {{ train = "law_firm/clauses.train.jsonl", test = "law_firm/clauses.test.jsonl" }}
institutions = 3
kind = "dirichlet"
alpha = 0.5
{more}
"""


def experiment_file(tmp_path: Path, rounds: str = "", more: str = "") -> Path:
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT.format(rounds=rounds, more=more))
    return file


def test_an_experiment_file_with_a_partition(tmp_path: Path) -> None:
    said: list[str] = []
    experiment = load_experiment(
        experiment_file(tmp_path), data=SAMPLES, limit=40, workdir=tmp_path, announce=said.append
    )
    rounds = experiment.federation.rounds
    assert rounds.institutions == tuple(experiment.institutions) == ("site-01", "site-02", "site-03")
    assert rounds.quorum == 3
    kept = [read_records(held["clauses"].train, _clauses(experiment)) for held in experiment.institutions.values()]
    assert sum(map(len, kept)) == 40
    assert len(said) == 3


def test_a_whole_task_alone_has_no_labels_to_split_by(tmp_path: Path) -> None:
    spec = '[federation.tasks.clauses]\ntype = "fill-mask"\n'
    text = experiment_file(tmp_path).read_text()
    begin, end = text.index("[federation.tasks"), text.index("[partition")
    (tmp_path / "experiment.toml").write_text(text[:begin] + spec + text[end:])
    with pytest.raises(ConfigError, match=r"clauses has none; choose 'iid' or 'by' for partition\.clauses\.kind"):
        load_experiment(tmp_path / "experiment.toml", data=SAMPLES, workdir=tmp_path)


@pytest.mark.parametrize(
    ("rounds", "more", "said"),
    [
        ('institutions = ["bank"]\nquorum = 1', "", r"exactly \['bank'\]"),
        ("", '[institutions.site-02.clauses]\ntrain = "law_firm/clauses.train.jsonl"', "clauses of site-02 in"),
        ("", '[partition.other]\ndata = {train = "x.jsonl"}\ninstitutions = 3\nkind = "iid"', r"not of \['other'\]"),
    ],
)
def test_an_experiment_file_that_cannot_be(tmp_path: Path, rounds: str, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_experiment(experiment_file(tmp_path, rounds, more), data=SAMPLES, workdir=tmp_path)


def test_an_experiment_needs_somebody(tmp_path: Path) -> None:
    file = experiment_file(tmp_path, 'institutions = ["bank"]\nquorum = 1')
    file.write_text(file.read_text().partition("[partition")[0])
    with pytest.raises(ConfigError, match=r"give \[institutions\], or \[partition\] of a task"):
        load_experiment(file, data=SAMPLES)


def test_a_federation_of_a_partition_scores_the_test_records_once(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    split = plan(tmp_path, institutions=3, kind="dirichlet", alpha=0.3, least=20)
    shares = partition(split, task(), tmp_path / "parts", lambda _: None)
    names = list(shares)
    federation = tiny_federation(tasks={"notes": SPEC}, rounds={"institutions": names, "count": 1, "quorum": 3})
    federation = federation.model_copy(update={"tasks": {"notes": TextClassificationSpec(**SPEC)}})
    experiment = Experiment(
        federation=federation, institutions={name: {"notes": share} for name, share in shares.items()}
    )
    model = build_model(federation)
    with Store.open(f"sqlite:///{tmp_path / 'x.db'}", checkpoints=tmp_path / "checkpoints") as store:
        run = run_federation(open_sites(experiment, model), federation, get_state(model), store, lambda _: None)
        rows = [row for row in store.rows(scores, run) if row["metric"] == "accuracy"]
    tested = [(row["institution"], row["examples"]) for row in rows if row["split"] == "test"]
    assert set(tested) == {("site-01", SIZES["test"])}
    assert sum(row["examples"] for row in rows if row["split"] == "validation") == SIZES["validation"]


def _clauses(experiment: Experiment) -> Task:
    return build_task("clauses", experiment.federation.tasks["clauses"])
