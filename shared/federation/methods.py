"""How institutions' adapters become one: the registry of methods, and which one a federation gets if it names none.

A method says which factors of W = W0 + alpha / rank * B A institutions train in a round, what they keep at home, and
what else it can be combined with. The arithmetic is in `server/aggregation/`, one file per method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Factor = Literal["A", "B", "R"]
"""Of an adapter's product: B A, or with `fed-sb` B R A."""
Kept = Literal["B", "heads"]
"""What may stay at home."""
MethodName = Literal[
    "fedavg", "ffa", "rolora", "fedex", "flora", "flexlora", "fedsa", "fedsvd", "fedrot", "fed-sb", "heads"
]


@dataclass(frozen=True)
class Method:
    """What coordinator and institutions must know of a method."""

    summary: str
    source: str
    """The paper."""
    trains: tuple[tuple[Factor, ...], ...]
    """The factors trained in round 1, 2, ...; then from the start again."""
    exact: bool
    """Whether the new product is the weighted mean of the institutions' products."""
    linear: bool
    """Whether sums of updates are all that it needs: constant memory, and secure aggregation works."""
    up: str
    """What an institution sends, beside its heads; r is the rank, K the number of institutions."""
    down: str
    mixed_ranks: bool = False
    """Whether institutions may have different ranks."""
    private: Literal["yes", "costly"] = "yes"
    """Under [privacy]; `costly`: noise enters two factors and multiplies in their product."""
    keeps: tuple[Kept, ...] = ()
    """What stays at home and is never sent."""
    aligns: bool = False
    """Whether institutions rotate their factors towards those they received before they send them."""
    folds: bool = False
    """Whether rounds move the frozen weights too, by low-rank steps that institutions add to them."""
    begins: Literal["random", "orthonormal", "principal"] = "random"
    """A at the start: drawn as peft does; with orthonormal rows; A and B the principal directions of W0, R zero."""

    def factors(self, round: int) -> tuple[Factor, ...]:
        """The factors that institutions train in a round, counted from 1."""
        return self.trains[(round - 1) % len(self.trains)]

    @property
    def frozen(self) -> bool:
        """Whether the encoder, adapter and all, stays as it was at the start."""
        return not any(self.trains)


BOTH: tuple[tuple[Factor, ...], ...] = (("A", "B"),)
METHODS: Mapping[MethodName, Method] = {
    "fedavg": Method(
        "A and B averaged each by itself",
        "FedIT; Zhang et al. 2023, arXiv 2305.05644",
        BOTH,
        exact=False,
        linear=True,
        up="A, B",
        down="A, B",
        mixed_ranks=True,
        private="costly",
    ),
    "ffa": Method(
        "B trained beside a frozen orthonormal A",
        "FFA-LoRA; Sun et al. 2024, arXiv 2403.12313",
        (("B",),),
        exact=True,
        linear=True,
        up="B",
        down="A, B",
        begins="orthonormal",
    ),
    "rolora": Method(
        "B and A trained in turn, one per round",
        "RoLoRA; Chen et al. 2025, arXiv 2502.01755",
        (("B",), ("A",)),
        exact=True,
        linear=True,
        up="B or A",
        down="A, B",
    ),
    "fedex": Method(
        "A and B averaged, and what that leaves out of the mean product added to the frozen weights",
        "FedEx-LoRA; Singhal et al. 2025, arXiv 2410.09432",
        BOTH,
        exact=True,
        linear=False,
        up="A, B",
        down="A, B, and factors of rank (K-1) r",
        private="costly",
        folds=True,
    ),
    "flora": Method(
        "all products added to the frozen weights, A and B started again",
        "FLoRA; Wang et al. 2024, arXiv 2409.05976",
        BOTH,
        exact=True,
        linear=False,
        up="A, B",
        down="A, B, and factors of rank K r",
        mixed_ranks=True,
        private="costly",
        folds=True,
    ),
    "flexlora": Method(
        "the mean product, cut to each institution's rank by a singular value decomposition",
        "FlexLoRA; Bai et al. 2024, arXiv 2402.11505",
        BOTH,
        exact=False,
        linear=False,
        up="A, B",
        down="A, B",
        mixed_ranks=True,
        private="costly",
    ),
    "fedsa": Method(
        "A averaged; B and heads stay at home",
        "FedSA-LoRA; Guo et al. 2025, arXiv 2410.01463",
        BOTH,
        exact=False,
        linear=True,
        up="A, and no heads",
        down="A, and no heads",
        private="costly",
        keeps=("B", "heads"),
    ),
    "fedsvd": Method(
        "as ffa, and A turned to the product's principal directions after every round",
        "FedSVD; Lee et al. 2025, arXiv 2505.12805",
        (("B",),),
        exact=True,
        linear=True,
        up="B",
        down="A, B",
        begins="orthonormal",
    ),
    "fedrot": Method(
        "as fedavg, after each institution has rotated its factors towards those it received",
        "FedRot-LoRA; 2026, arXiv 2602.23638",
        BOTH,
        exact=False,
        linear=True,
        up="A, B",
        down="A, B",
        private="costly",
        aligns=True,
    ),
    "fed-sb": Method(
        "a core R between frozen A and B, the principal directions of the frozen weights",
        "Fed-SB; Singhal et al. 2025, arXiv 2502.15436; directions as in PiSSA, Meng et al. 2024, arXiv 2404.02948",
        (("R",),),
        exact=True,
        linear=True,
        up="R, r x r",
        down="R, r x r",
        begins="principal",
    ),
    "heads": Method(
        "no adapter: heads on states of the frozen encoder, which a site computes once",
        "linear probing; under privacy, Tramèr and Boneh 2021, arXiv 2011.11660",
        ((),),
        exact=True,
        linear=True,
        up="heads alone",
        down="heads alone",
    ),
}
"""By `rounds.method`."""
assert set(METHODS) == set(get_args(MethodName))
FEW = 10
"""Up to so many institutions, an exact residual costs little."""
LOW_RANK = 4
"""At ranks up to this, two factors averaged by themselves lose much."""


def columns(method: Method) -> dict[str, str]:
    """What the table of methods says of one, by column."""
    yes_no = {True: "yes", False: "no"}
    private = {"yes": "yes", "costly": "noise multiplies"}
    return {
        "up": method.up,
        "down": method.down,
        "exact mean": yes_no[method.exact],
        "secure aggregation": yes_no[method.linear],
        "different ranks": yes_no[method.mixed_ranks],
        "privacy": private[method.private],
    }


def choose(*, institutions: int, rank: int, mixed_ranks: bool, private: bool, secure: bool) -> tuple[MethodName, str]:
    """The method of a federation that names none, and the reason in words.

    Strong skew between institutions is a reason for `rolora` as well, but no federation file describes it.
    """
    if mixed_ranks:
        return "flexlora", "institutions have different ranks"
    if private:
        return "fedsvd", "under [privacy], noise in one factor is not multiplied by the other"
    if secure:
        return "rolora", "under [secure_aggregation] only sums are known, and it is exact from sums"
    if institutions > FEW:
        return "rolora", f"more than {FEW} institutions: it is exact, and costs half the bytes"
    if rank <= LOW_RANK:
        return "rolora", f"a rank of at most {LOW_RANK}, where averaging both factors at once loses most"
    return "fedex", f"at most {FEW} institutions whose updates are seen one by one: the mean product is exact"
