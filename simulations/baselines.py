"""What the federation is compared with: all data pooled, and each institution alone, by the same trainer."""

from collections.abc import Callable, Mapping, Sequence

from client.site import Site
from client.train import trainer
from client.train.hooks import Hook
from client.train.scoring import score
from shared.adapter import set_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.lora import set_trained
from shared.model.multitask import MultiTaskModel

Scores = dict[str, dict[str, float]]
"""The primary metric on the test split, by institution and task."""


def centralised(
    model: MultiTaskModel,
    initial: Arrays,
    sites: Mapping[str, Site],
    federation: Federation,
    hooks: Sequence[Hook] = (),
) -> Scores:
    """Train on all institutions' records pooled, for as many epochs as the federation's rounds add up to."""
    train_on(model, initial, list(sites.values()), federation, hooks)
    return {name: test_scores(model, site) for name, site in sites.items()}


def local_only(
    model: MultiTaskModel,
    initial: Arrays,
    sites: Mapping[str, Site],
    federation: Federation,
    announce: Callable[[str], None],
) -> Scores:
    """Train for each institution alone on its own records."""
    scores = {}
    for name, site in sites.items():
        announce(f"local-only: {name}")
        train_on(model, initial, [site], federation)
        scores[name] = test_scores(model, site)
    return scores


def test_scores(model: MultiTaskModel, site: Site) -> dict[str, float]:
    """The primary metric of each task that the site has test records for, under the model's present state."""
    return {
        task: score(model, task, splits, "test", site.federation.training.precision)[model.tasks[task].metric]
        for task, splits in site.data.items()
        if "test" in splits
    }


def train_on(
    model: MultiTaskModel,
    initial: Arrays,
    sites: list[Site],
    federation: Federation,
    hooks: Sequence[Hook] = (),
) -> None:
    """Train from `initial` on the sites' records together, for as many epochs as the federation's rounds add up to."""
    epochs = federation.training.epochs_per_round * federation.rounds.count
    examples = [example for site in sites for example in site.examples("train")]
    augmented = any(site.augment for site in sites)
    model.base.reset()
    set_state(model, initial)
    set_trained(model.encoder, {factor for round in federation.method.trains for factor in round})
    trainer.train(
        model,
        examples,
        federation.training.model_copy(update={"epochs_per_round": epochs}),
        seed=trainer.derive_seed(federation.seed, "+".join(site.name for site in sites), 1),
        augment=(lambda chance: [e for site in sites for e in site.draw_examples(chance)]) if augmented else None,
        hooks=hooks,
    )
