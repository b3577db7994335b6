"""What in a federation file goes with what: one table of rules, and one evaluator that reports every breach.

A condition is the path of a key (`privacy`, `training.scaffold`), which holds where it is given or on, or a path and
values (`adapter.type=adalora`, `rounds.method=fedex|flora`). Where the file leaves `rounds.method` open, the rules
apply to the method that is chosen. Arithmetic between two keys is checked beside their tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from shared.codec import CodecName, FloatCodec, StateCodec
from shared.federation.methods import METHODS


@dataclass(frozen=True)
class Rule:
    """While `when` holds, `forbids` must not, or the key of `needs` must have one of the values that follow it."""

    when: str
    because: str
    """Why, as a clause."""
    forbids: str = ""
    needs: tuple[Any, ...] = ()

    def breach(self, federation: BaseModel) -> str | None:
        """What is wrong in this federation, as a clause of one error; None if nothing is."""
        if not holds(self.when, federation):
            return None
        if self.needs:
            path, *allowed = self.needs
            actual = value_of(path, federation)
            if actual is None or actual in allowed:  # a table that is not given asks for nothing
                return None
            wanted = repr(allowed[0]) if len(allowed) == 1 else f"one of {allowed}"
            return f"with {shown(self.when)}, {path} must be {wanted}, not {actual!r}: {self.because}"
        if not holds(self.forbids, federation):
            return None
        path, _, values = self.forbids.partition("=")
        must_not = f"be {value_of(path, federation)!r}" if values else "be given"
        return f"with {shown(self.when)}, {shown(path)} must not {must_not}: {self.because}"


def violations(federation: BaseModel) -> list[str]:
    """Every breach of every rule, one clause each."""
    return [clause for rule in RULES if (clause := rule.breach(federation))]


def holds(condition: str, federation: BaseModel) -> bool:
    """Whether a key is given (or switched on), or has one of the values that the condition names."""
    path, _, values = condition.partition("=")
    actual = value_of(path, federation)
    if not values:
        return bool(actual)
    actual = actual if isinstance(actual, tuple) else (actual,)
    return not {str(each) for each in actual}.isdisjoint(values.split("|"))


def value_of(path: str, federation: BaseModel) -> Any:
    """What stands at a path of the file, defaults worked out; None if its table is not given."""
    if path in WORKED_OUT:
        return getattr(federation, WORKED_OUT[path])
    value: Any = federation
    for key in path.split("."):
        value = None if value is None else getattr(value, key)
    return value


def shown(condition: str) -> str:
    """A condition as it is written in the file."""
    path, _, values = condition.partition("=")
    name = path if "." in path else f"[{path}]"
    return f"{name} = {' or '.join(repr(value) for value in values_of(condition))}" if values else name


def values_of(condition: str) -> list[str | int]:
    """The values that a condition names, numbers as numbers; none if it names none."""
    _, _, values = condition.partition("=")
    return [int(value) if value.isdigit() else value for value in values.split("|") if value]


WORKED_OUT: Mapping[str, str] = {"rounds.method": "method_name", "adapter.min_rank": "narrowest"}
"""Properties of the federation that give a key's value where the file leaves it open."""


def _methods(**traits: Any) -> tuple[str, ...]:
    """The methods that have these traits."""
    return tuple(
        name for name, method in METHODS.items() if all(getattr(method, key) == value for key, value in traits.items())
    )


def _table() -> Iterator[Rule]:
    yield from _privacy()
    yield from _secure_aggregation()
    yield from _server_optimizer()
    yield from _drift()
    yield from _wire()
    yield from _robust()
    yield from _adapter()
    yield from _personal()


def _privacy() -> Iterator[Rule]:
    def private(key: str, *allowed: Any, because: str) -> Rule:
        return Rule("privacy", because, needs=(key, *allowed))

    yield private("training.combine", "fixed", because="weights that follow losses or gradients depend on all records")
    yield private("training.sampling", "all", because="the sizes of tasks are private")
    yield private("training.adversarial_epsilon", 0.0, because="its second gradient is not clipped")
    yield Rule("privacy", "how many steps fit depends on all records", forbids="training.max_seconds")
    yield private("training.weight_decay", 0.0, because="the noise is calibrated to clipped gradients alone")
    yield private("training.head_dropout", 0.0, because="one owner's random draws would shift those of the others")
    yield private("adapter.dropout", 0.0, because="one owner's random draws would shift those of the others")
    yield private("rounds.weighting", "equal", because="record counts are private")
    yield private("personal.fine_tune_epochs", 0, because="the accounting covers rounds only")


def _secure_aggregation() -> Iterator[Rule]:
    secure = "secure_aggregation"
    yield Rule(secure, "the others need single updates", needs=("rounds.method", *_methods(linear=True)))
    yield Rule(secure, "masked updates must all have the same shape", forbids="adapter.min_rank")
    yield Rule(secure, "sums are computed over integers", needs=("wire.up", *get_args(FloatCodec)))


OTHER_AXES: Mapping[str, str] = {
    "fedex": "what it adds to the frozen weights belongs to the plain mean",
    "flora": "it restarts A and B in every round",
    "flexlora": "it factors the product again in every round",
    "fedsvd": "it turns A to other directions in every round",
}
"""Methods under which an element of A or B has another meaning in every round, or must be the plain mean."""


def _server_optimizer() -> Iterator[Rule]:
    moving = "server_optimizer.type=fedavgm|fedadagrad|fedadam|fedyogi"
    for method, reason in OTHER_AXES.items():
        because = f"moments must mean the same from round to round, but {reason}; 'rolora' works"
        yield Rule(moving, because, forbids=f"rounds.method={method}")
    yield Rule(moving, "momentum would move components that have been pruned", forbids="adapter.type=adalora")


def _drift() -> Iterator[Rule]:
    scaffold, normalized = "training.scaffold", "rounds.normalize_steps"
    plain = "the mean gradient follows from plain steps only"
    yield Rule(scaffold, plain, needs=("training.optimizer", "sgd"))
    yield Rule(scaffold, plain, needs=("training.momentum", 0.0))
    yield Rule(scaffold, "control variates are gradients of the records", forbids="privacy")
    lost = "when an institution drops out, its variates are missing from the sum"
    yield Rule(scaffold, lost, forbids="secure_aggregation")
    yield Rule(scaffold, "control variates are reported by the institutions and not filtered", forbids="robust")
    yield Rule(scaffold, "control variates weigh all institutions equally", needs=("rounds.weighting", "equal"))
    turned = {**OTHER_AXES, "fedrot": "every institution rotates what it has trained"}
    for method, reason in turned.items():
        yield Rule(scaffold, f"{reason}; 'rolora' works", forbids=f"rounds.method={method}")
    for varied in ("adapter.min_rank", "adapter.type=adalora"):
        yield Rule(scaffold, "control variates must all have the same shape", forbids=varied)
    yield Rule(scaffold, "both correct for drift", forbids="training.proximal_mu")
    yield Rule(normalized, "all institutions take the same number of private steps", forbids="privacy")
    digits = "a masked update divided by its steps would lose the fixed-point digits that it needs"
    yield Rule(normalized, digits, forbids="secure_aggregation")
    yield Rule(normalized, "numbers of steps are reported by the institutions and not checked", forbids="robust")
    product = "dividing both factors by n divides their product by n squared; 'rolora' works"
    yield Rule(normalized, product, needs=("rounds.method", *_methods(linear=True)))
    yield Rule(normalized, "there are no steps to divide by", forbids="training.epochs_per_round=0")


def _wire() -> Iterator[Rule]:
    floats = "|".join(get_args(FloatCodec))
    coarse = [name for name in get_args(CodecName) if name not in floats.split("|")]
    states = [name for name in get_args(StateCodec) if name not in floats.split("|")]
    cut = "factors cut to a layer's rank are sent as floats"
    yield Rule("adapter.type=adalora", cut, forbids=f"wire.up={'|'.join(coarse)}")
    yield Rule("adapter.type=adalora", cut, forbids=f"wire.down={'|'.join(states)}")
    for method, reason in OTHER_AXES.items():
        if method != "fedex":
            because = f"what is left out is added to the next update, but {reason}; 'int4' works"
            yield Rule("wire.up=top-k", because, forbids=f"rounds.method={method}")
    yield Rule("training.scaffold", "there is no next update of control variates", forbids="wire.up=top-k")


def _robust() -> Iterator[Rule]:
    yield Rule("robust", "a filter needs single updates", forbids="secure_aggregation")
    unchecked = "reported by the institutions and not checked"
    yield Rule("robust", f"record counts are {unchecked}", needs=("rounds.weighting", "equal"))
    yield Rule("robust", f"importance scores are {unchecked}", needs=("adapter.type", "lora"))


def _adapter() -> Iterator[Rule]:
    pruned, heads = "adapter.type=adalora", "rounds.method=heads"
    able = _methods(mixed_ranks=True)
    yield Rule("adapter.min_rank", "the others need the same rank everywhere", needs=("rounds.method", *able))
    both = "both factors of a component must be trained and keep their place"
    yield Rule(pruned, both, needs=("rounds.method", "fedavg"))
    yield Rule(pruned, "a layer has the same rank everywhere", forbids="adapter.min_rank")
    yield Rule(pruned, "both factors of a component are pruned together", forbids="personal.keep=B")
    yield Rule(pruned, "importance is computed from the gradients of the records", forbids="privacy")
    yield Rule(pruned, "importance scores are sent unmasked", forbids="secure_aggregation")
    yield Rule(pruned, "pruning goes on until the last rounds", needs=("rounds.patience", 0))
    yield Rule(heads, "no two tasks train the same parameters", forbids="training.combine=gradnorm|pcgrad")
    yield Rule(heads, "no gradient reaches the embeddings", needs=("training.adversarial_epsilon", 0.0))
    yield Rule(heads, "no adapter is trained", needs=("adapter.type", "lora"))
    yield Rule(heads, "nothing would be shared", forbids="personal.keep=heads")


def _personal() -> Iterator[Rule]:
    able = [name for name, method in METHODS.items() if method.linear and all("A" in f for f in method.trains)]
    because = "the others need the products of A and B, or have rounds that train no A and would share nothing"
    yield Rule("personal.keep=B", because, needs=("rounds.method", *able))


RULES: tuple[Rule, ...] = tuple(_table())
"""All rules, in the order in which breaches are reported."""
