"""What parts of a federation file cannot work together, and why: server optimizers, drift, codecs, heads alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from shared.codec import FloatCodec

if TYPE_CHECKING:
    from shared.federation import Federation

OTHER_AXES: Mapping[str, str] = {
    "fedex": "what it adds to the frozen weights fits the plain mean alone",
    "flora": "it begins A and B anew in every round",
    "flexlora": "it factors the product anew in every round",
    "fedsvd": "it turns A to other directions in every round",
}
"""Methods after which an element of A or B is not what it was in the round before, or may not be anything else."""


def wrong_combinations(federation: "Federation") -> list[str]:
    """Everything wrong with server optimizer, corrections of drift, codecs and heads alone, one clause each."""
    return [
        *_server_optimizer(federation),
        *_scaffold(federation),
        *_normalized(federation),
        *_proximal(federation),
        *_wire(federation),
        *_frozen(federation),
    ]


def _server_optimizer(federation: "Federation") -> list[str]:
    agreed, method = federation.server_optimizer, federation.method_name
    if agreed.type == "none":
        given = [key for key, value in agreed if value != type(agreed).model_fields[key].default]
        return [f"server_optimizer.{given[0]} does nothing while server_optimizer.type is 'none'"] if given else []
    if method in OTHER_AXES:
        return [
            f"server_optimizer.type {agreed.type!r} needs moments that mean the same from round to round, but under "
            f"rounds.method {method!r} they do not: {OTHER_AXES[method]}; name another method, such as 'rolora'"
        ]
    if federation.adapter.type == "adalora":
        return [
            f"server_optimizer.type {agreed.type!r} does not go with adapter.type 'adalora': momentum would move "
            "components that have been pruned"
        ]
    return []


def _scaffold(federation: "Federation") -> list[str]:
    training, method = federation.training, federation.method_name
    if not training.scaffold:
        return []
    wrong = []
    if training.optimizer != "sgd" or training.momentum:
        wrong.append("training.optimizer must be 'sgd' with momentum = 0, whose steps tell the mean gradient")
    if federation.privacy:
        wrong.append("[privacy] must not be given, since control variates are gradients of the records")
    if federation.secure_aggregation:
        wrong.append(
            "[secure_aggregation] must not be given: whose variates are in the sum changes with every institution that "
            "is lost on the way, and nobody could tell it"
        )
    if federation.robust:
        wrong.append("[robust] must not be given, since control variates are an institution's own word, and unfiltered")
    if federation.rounds.weighting != "equal":
        wrong.append("rounds.weighting must be 'equal', since control variates count every institution alike")
    if method in OTHER_AXES or method == "fedrot":
        reason = OTHER_AXES.get(method, "every institution rotates what it has trained")
        wrong.append(f"rounds.method must be another than {method!r}: {reason}; 'rolora' would do")
    if len(federation.adapter.ranks) > 1 or federation.adapter.type == "adalora":
        wrong.append("adapter.min_rank and adapter.type 'adalora' must not be given: control variates have one shape")
    return [f"with training.scaffold, {clause}" for clause in wrong]


def _normalized(federation: "Federation") -> list[str]:
    rounds, wrong = federation.rounds, []
    if not rounds.normalize_steps:
        return []
    if federation.privacy:
        wrong.append("[privacy] must not be given: under it every institution takes as many steps as any other")
    if federation.secure_aggregation:
        wrong.append(
            "[secure_aggregation] must not be given: a masked update divided by its steps would lose the fixed-point "
            "digits that it needs"
        )
    if federation.robust:
        wrong.append("[robust] must not be given, since how many steps it took is an institution's own word")
    if not federation.method.linear:
        wrong.append(
            f"rounds.method must not be {federation.method_name!r}: a product of factors is not divided by dividing "
            "both; 'rolora' would do"
        )
    if federation.training.epochs_per_round == 0:
        wrong.append("training.epochs_per_round must be at least 1")
    return [f"with rounds.normalize_steps, {clause}" for clause in wrong]


def _proximal(federation: "Federation") -> list[str]:
    if federation.training.proximal_mu and federation.training.scaffold:
        return ["give either training.proximal_mu or training.scaffold: both hold an institution back from drifting"]
    return []


def _wire(federation: "Federation") -> list[str]:
    wire, method, wrong = federation.wire, federation.method_name, []
    floats = get_args(FloatCodec)
    if wire.up not in floats and federation.secure_aggregation:
        wrong.append(f"wire.up must be one of {list(floats)} with [secure_aggregation], whose sums travel as integers")
    if federation.adapter.type == "adalora" and not {wire.up, wire.down} <= set(floats):
        wrong.append(f"wire.up and wire.down must be among {list(floats)} with adapter.type 'adalora'")
    if wire.up != "top-k":
        return wrong
    if method in OTHER_AXES and method != "fedex":
        wrong.append(
            f"wire.up 'top-k' adds what it left out to the next update, but under rounds.method {method!r} that means "
            f"another thing by then: {OTHER_AXES[method]}; 'int4' would do"
        )
    if federation.training.scaffold:
        wrong.append("wire.up must not be 'top-k' with training.scaffold: control variates have no next update")
    return wrong


def _frozen(federation: "Federation") -> list[str]:
    if not federation.method.frozen:
        return []
    training, wrong = federation.training, []
    if training.combine in ("gradnorm", "pcgrad"):
        wrong.append(f"training.combine must not be {training.combine!r}: no two tasks train the same parameters")
    if training.adversarial_epsilon:
        wrong.append("training.adversarial_epsilon must be 0: no gradient reaches the embeddings")
    if federation.adapter.type == "adalora":
        wrong.append("adapter.type must be 'lora', since no adapter is trained, not 'adalora'")
    if federation.personal and "heads" in federation.personal.keep:
        wrong.append('"heads" must not be in personal.keep: nothing would be shared')
    return [f"with rounds.method {federation.method_name!r}, {clause}" for clause in wrong]
