"""Releasing a run: the best round as a bundle that plain peft and `collegium predict` can load."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.aggregation.shares import capped_mean
from server.enrolment.keys import agreement_line
from server.home import open_home
from server.opening import open_store
from server.release.audits import read_audits
from server.release.card import card
from server.release.gate import check_gate, measure
from server.release.key import signing_key
from server.release.lineage import called, lineage, pseudonyms, scored_worst, withdrawals_of
from server.rounds.comparing import compared
from server.store import Store, rounds, scores
from server.store.releases import add_release
from shared.adapter import is_kept
from shared.bundle import heads_of, release_of, seal, write_bundle, write_told
from shared.bundle.consent import Consent, consent_text, read_consent
from shared.bundle.manifest import check_consent, consent_file
from shared.errors import BundleError, ConfigError
from shared.federation import Federation
from shared.model.deployed import MOST_RANK, deployed
from shared.model.lowrank import add_up
from shared.tasks import TASK_TYPES


@dataclass(frozen=True)
class Terms:
    """Under which a model goes to others: signed, with what its agreement asks, and naming who consents to that."""

    key: Ed25519PrivateKey | None = None
    """Signs it; a draft is not signed, and need not have what is asked: it is there to be audited."""
    consents: Sequence[Path] = ()
    """Files of institutions' consents."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """By institution, the line of its enrolled key, by which it consents."""
    audits: Sequence[Path] = ()
    """Files `audit.json`."""


def release_run(
    folder: Path,
    run_id: str | None,
    target: Path,
    most: int = MOST_RANK,
    *,
    consents: Sequence[Path] = (),
    audits: Sequence[Path] = (),
    draft: bool = False,
) -> Path:
    """Write and sign the best round of a run of a coordinator's folder, the latest if not named, and remember that.

    Raises:
        ConnectionFailedError: Consents came, and the coordinator is not up to tell whose keys they are.
        Others: As `release`.
    """
    home = open_home(folder)
    keys = {}
    if consents:
        from server.service.operator import OperatorClient

        with OperatorClient(home) as operator:
            keys = {node.name: agreement_line(node.public_key) for node in operator.nodes()}
    terms = Terms(None if draft else signing_key(home), consents, keys, audits)
    with open_store(folder) as store:
        run = str(store.run(run_id)["run"])
        made = release(store, run, target, most, terms)
        if not draft:
            best = store.best_round(run)
            assert best is not None
            add_release(store, run, best, release_of(made), str(made.resolve()))
    return made


def release(store: Store, run: str, folder: Path, most: int = MOST_RANK, terms: Terms | None = None) -> Path:
    """Write the best round of a run to a new folder; it appears whole or not at all.

    Where institutions keep their heads at home the bundle is the adapter alone. Of an adapter that has taken in steps
    of the frozen weights (`Method.folds`) at most `most` components a layer are kept; README.md and metrics.json
    (`cut_off`) say what that cuts off.

    Args:
        store: The coordinator's.
        run: A completed run.
        folder: To make.
        most: See above.
        terms: None where it stays with the coordinator: it is not signed then, and names everybody.

    Raises:
        ConfigError: The folder exists, the run has not completed, institutions keep half of the adapter at home, or an
            audit is about something else.
        BundleError: A consent is to something else, or by another key than that of the institution.
        ReleaseError: The model misses what `[release]` of its agreement asks.
        StoreError: The disk refuses.
    """
    row = store.run(run)
    if row["status"] != "completed":
        raise ConfigError(f"Expected a completed run, but run {row['run']} is {row['status']}; resume it first.")
    federation, best = store.agreement(row["run"]), store.best_round(row["run"])
    assert best is not None
    if "B" in federation.method.keeps:
        raise ConfigError(
            f"Expected a run with a global adapter to release, but in run {row['run']} every institution has kept its "
            "own B at home; let each write its own bundle by `collegium client bundle`."
        )
    folded = range(best + 1) if federation.method.folds else ()
    steps = add_up([store.load_checkpoint(row["run"], round).steps for round in folded])
    made = deployed(store.load_checkpoint(row["run"], best).model, steps, federation, most)
    arrays = {name: array for name, array in made.arrays.items() if not is_kept(name, federation.method.keeps)}
    settings = tuned_settings(federation, store.rows(scores, row["run"]), best)

    def finish(building: Path) -> None:
        """Tell of a model whose files are there, and so its id, and sign it all."""
        release, tasks = release_of(building), sorted(heads_of(arrays))
        consents = _consents(terms, release, federation) if terms else {}
        metrics = _metrics(store, row, best, terms, consents, tasks) | {"cut_off": made.error}
        audits = read_audits(terms.audits, release=release, agreement=federation.digest) if terms else []
        worst, unscored = scored_worst(store, row["run"], best)
        if terms and terms.key:
            check_gate(federation, measure(worst, unscored, audits), tasks)
        metrics["audits"] = [asdict(audit) | {"membership": _plain(audit.membership)} for audit in audits]
        write_told(building, federation, tasks, metrics, card(federation, metrics))
        for name, consent in consents.items():
            file = building / consent_file(name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(consent_text(consent))
        if terms and terms.key:
            seal(building, terms.key)

    told = {"settings": settings}  # the rest is told in the end
    return write_bundle(folder, federation, arrays, made.ranks, metrics=told, readme="", finish=finish)


def tuned_settings(
    federation: Federation, scored: Sequence[Mapping[str, Any]], best: int
) -> dict[str, dict[str, float]]:
    """Per task, the settings that institutions tuned on validation records of the best round.

    The mean over institutions, weighted by their validation records as far as `rounds.max_share` lets them count.
    """
    settings: dict[str, dict[str, float]] = {}
    for task, spec in federation.tasks.items():
        for setting in TASK_TYPES[spec.type].tunable:
            tuned = {
                row["institution"]: (row["value"], row["examples"])
                for row in scored
                if (row["task"], row["metric"], row["round"], row["split"]) == (task, setting, best, "validation")
            }
            if tuned:
                settings.setdefault(task, {})[setting], _ = capped_mean(tuned, federation.rounds.max_share)
    return settings


def _metrics(
    store: Store,
    row: Mapping[str, Any],
    best: int,
    terms: Terms | None,
    consents: Mapping[str, Consent],
    tasks: Collection[str],
) -> dict[str, Any]:
    """What is told of a release, every institution under the name that it may have there."""
    run = str(row["run"])
    found = compared(store, run).get(best)
    worst, _ = scored_worst(store, run, best)
    everybody = {each["institution"] for each in store.rows(scores, run)} | set(
        store.agreement(run).rounds.institutions
    )
    named = everybody if terms is None else set(consents)
    origin = lineage(store, run, best, named, consents)
    withdrawn = withdrawals_of(store, run, best)
    everybody |= {one["institution"] for one in (*origin["institutions"], *withdrawn)}
    metrics = {
        "run": run,
        "digest": row["digest"],
        "parent": {"run": row["parent"], "round": row["parent_round"]} if row["parent"] else None,
        "best_round": best,
        "carried": [
            {"institution": institution, "task": task, "round": number}
            for (institution, task), number in (sorted(found.carried.items()) if found else ())
        ],
        "tasks": list(tasks),
        "rounds": store.rows(rounds, run),
        "scores": [{key: row[key] for key in row if key != "id"} for row in store.rows(scores, run)],
        "worst": asdict(worst) if worst else None,
        "lineage": origin,
        "withdrawn": withdrawn,
    }
    told: dict[str, Any] = called(metrics, pseudonyms(everybody, named))
    return told


def _consents(terms: Terms, release: str, federation: Federation) -> dict[str, Consent]:
    """By name, the consents to this release, each by the key under which the institution is enrolled."""
    found = {}
    for file in terms.consents:
        consent = read_consent(file)
        check_consent(consent, release, federation)
        if terms.keys.get(consent.name) != consent.key:
            raise BundleError(
                f"Expected {consent.name}'s consent in {file} by the key that is enrolled under that name, but it is "
                "by another; ask the institution."
            )
        found[consent.name] = consent
    return found


def _plain(membership: Any) -> dict[str, float] | None:
    return None if membership is None else membership.model_dump()
