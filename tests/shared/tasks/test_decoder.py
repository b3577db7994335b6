"""The decoder and its beam search: against exhaustive search, greedy search, a slow beam search, and reading again."""

import itertools
from collections.abc import Callable

import pytest
import torch

from shared.tasks.heads.decoder import DecoderHead, Step, beam_search

VOCABULARY, END, MOST = 4, 3, 4
Text = tuple[int, ...]
Likelihoods = dict[Text, list[float]]
"""Log-likelihoods of what follows, by what is written already."""


def language(seed: int, sharpness: float = 1.0) -> Likelihoods:
    """A random language over a tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = [text for n in range(MOST) for text in itertools.product(range(VOCABULARY), repeat=n)]
    logits = torch.randn(len(prefixes), VOCABULARY, generator=generator) * sharpness
    return dict(zip(prefixes, logits.log_softmax(-1).tolist(), strict=True))


def search(languages: list[Likelihoods], *, beams: int, alpha: float, most: int = MOST) -> list[Text]:
    """What `beam_search` writes in each language, cut at its end."""
    written: list[Text] = [()] * (len(languages) * beams)
    calls = 0

    def step(last: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        nonlocal written, calls
        began = [()] * len(written) if calls == 0 else [(token,) for token in last.tolist()]
        written = [written[i] + token for i, token in zip(origin.tolist(), began, strict=True)]
        calls += 1
        return torch.tensor([languages[row // beams][text] for row, text in enumerate(written)])

    start, end = torch.zeros(len(languages), dtype=torch.long), torch.full((len(languages),), END)
    rows = beam_search(step, start, end, beams=beams, most=most, length_penalty=alpha).tolist()
    for row in rows:
        assert not any(token != END for token in row[row.index(END) if END in row else len(row) :])
    return [tuple(row[: row.index(END) + 1]) if END in row else tuple(row) for row in rows]


def score(language: Likelihoods, text: Text, alpha: float) -> float:
    penalty: float = ((5 + len(text)) / 6) ** alpha
    return sum(language[text[:i]][token] for i, token in enumerate(text)) / penalty


def texts(most: int) -> list[Text]:
    """Everything that can be written: ended, or as long as may be."""
    every = [text for n in range(1, most + 1) for text in itertools.product(range(VOCABULARY), repeat=n)]
    return [text for text in every if END not in text[:-1] and (text[-1] == END or len(text) == most)]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 3.0])
def test_enough_beams_find_the_best_of_all_texts(alpha: float) -> None:
    languages = [language(seed) for seed in range(12)]
    found = search(languages, beams=VOCABULARY**MOST, alpha=alpha)
    assert found == [max(texts(MOST), key=lambda text: score(each, text, alpha)) for each in languages]
    assert len({len(text) for text in found}) > 1


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_one_beam_is_greedy(alpha: float) -> None:
    languages = [language(seed) for seed in range(20)]
    for each, text in zip(languages, search(languages, beams=1, alpha=alpha), strict=True):
        greedy: Text = ()
        while len(greedy) < MOST and END not in greedy:
            greedy += (max(range(VOCABULARY), key=lambda token: each[greedy][token]),)
        assert text == greedy


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_a_few_beams_are_those_of_a_slow_search(beams: int, alpha: float) -> None:
    languages = [language(seed, sharpness=0.5) for seed in range(30)]
    better = 0
    for each, text in zip(languages, search(languages, beams=beams, alpha=alpha), strict=True):
        kept: list[Text] = [()]
        for _ in range(MOST):
            longer = [(*h, token) for h in kept if END not in h for token in range(VOCABULARY)]
            candidates = [h for h in kept if END in h] + longer
            kept = sorted(candidates, key=lambda h: score(each, h, alpha), reverse=True)[:beams]
        assert text == kept[0]
        better += score(each, text, alpha) > score(each, search([each], beams=1, alpha=alpha)[0], alpha)
    assert better > 0


@pytest.mark.parametrize("alpha", [0.6, 3.0])
def test_a_row_does_not_depend_on_its_neighbours(alpha: float) -> None:
    languages = [language(seed, sharpness=0.5) for seed in range(30)]
    together = search(languages, beams=3, alpha=alpha)
    assert together == [search([each], beams=3, alpha=alpha)[0] for each in languages]


def test_the_search_stops_when_all_is_decided() -> None:
    sure = {text: [-9.0, -9.0, -9.0, -1e-4] for text in language(0)}
    calls = []

    def step(last: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        calls.append(len(last))
        return torch.tensor([sure[()]] * len(last))

    start = torch.zeros(2, dtype=torch.long)
    assert beam_search(step, start, start + END, beams=2, most=50, length_penalty=1.0).tolist() == [[END], [END]]
    assert calls == [4]


def make_head(beams: int = 1, most: int = 7, layers: int = 2, alpha: float = 0.6) -> DecoderHead:
    torch.manual_seed(0)
    embeddings = torch.nn.Parameter(torch.randn(20, 16), requires_grad=False)
    head = DecoderHead(embeddings, layers=layers, most=most, beams=beams, length_penalty=alpha, dropout=0.5).eval()
    torch.nn.init.normal_(head.output.bias.weight)
    return head


def rows(count: int = 5) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    states, lengths = torch.randn(count, 9, 16, generator=generator), torch.tensor([9, 4, 1, 6, 9])[:count]
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    return states, mask, {"given": torch.full((count, 3), 2), "end": torch.full((count,), 5)}


def continuations(head: DecoderHead, states: torch.Tensor, mask: torch.Tensor) -> Callable[[Text], torch.Tensor]:
    """Log-likelihoods after any text for one row, by the plain forward over the whole text so far."""

    def after(text: Text) -> torch.Tensor:
        logits: torch.Tensor = head(states, mask, {"given": torch.tensor([[2, *text]])})
        return logits[0, -1].log_softmax(-1)

    return after


def test_every_hypothesis_is_read_as_if_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head, (states, mask, inputs) = make_head(beams=4), rows()
    generator = torch.Generator().manual_seed(1)

    def dictated(step: Step, start: torch.Tensor, end: torch.Tensor, **options: object) -> torch.Tensor:
        """Hypotheses that continue one another at random within their row; how far the fast reading is off."""
        row = torch.arange(5).repeat_interleave(4)
        given, off = torch.empty(20, 0, dtype=torch.long), []
        for _ in range(6):
            origin = row * 4 + torch.randint(4, (20,), generator=generator)
            given = torch.cat([given[origin], torch.randint(20, (20, 1), generator=generator)], dim=1)
            slow = head(states[row], mask[row], {"given": given})[:, -1].log_softmax(-1)
            off.append((step(given[:, -1], origin) - slow).abs().max())
        return torch.stack(off)

    monkeypatch.setattr("shared.tasks.heads.decoder.beam_search", dictated)
    assert float(head.infer(states, mask, inputs).detach().max()) < 1e-5


def test_greedy_writing_equals_reading_it_all_again_at_every_step() -> None:
    head, (states, mask, inputs) = make_head(), rows()
    for row, written in enumerate(head.infer(states, mask, inputs).tolist()):
        after = continuations(head, states[row : row + 1], mask[row : row + 1])
        text: Text = ()
        while len(text) < 7 and 5 not in text:
            text += (int(after(text).argmax()),)
        assert written[: len(text)] == list(text)


def test_beams_keep_their_own_past() -> None:
    head, (states, mask, inputs) = make_head(beams=4, most=4), rows()
    for row, written in enumerate(head.infer(states, mask, inputs).tolist()):
        after = continuations(head, states[row : row + 1], mask[row : row + 1])
        kept: list[tuple[float, Text]] = [(0.0, ())]
        for _ in range(4):
            longer = [
                (total + likelihood, (*h, token))
                for total, h in kept
                if 5 not in h
                for token, likelihood in enumerate(after(h).tolist())
            ]
            candidates = [item for item in kept if 5 in item[1]] + longer
            kept = sorted(candidates, key=lambda c: c[0] / ((5 + len(c[1])) / 6) ** 0.6, reverse=True)[:4]
        assert tuple(written[: len(kept[0][1])]) == kept[0][1]


def test_what_follows_is_not_seen_and_padding_does_not_matter() -> None:
    head, (states, mask, _) = make_head(), rows()
    given = torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(1))
    logits = head(states, mask, {"given": given})
    assert logits.shape == (5, 6, 20)
    torch.testing.assert_close(head(states, mask, {"given": given[:, :4]}), logits[:, :4])
    torch.testing.assert_close(head(states[1:2, :4], mask[1:2, :4], {"given": given[1:2]}), logits[1:2])
    assert not torch.allclose(head(states.flip(0), mask.flip(0), {"given": given})[0], logits[0])


def test_every_parameter_learns_and_the_embeddings_are_not_among_them() -> None:
    head, (states, mask, _) = make_head(), rows()
    loss = head(states, mask, {"given": torch.arange(15).view(5, 3)}).log_softmax(-1)[..., 7].sum()
    loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 1e-4 for p in head.parameters())
    assert {name for name, p in head.named_parameters() if 20 in p.shape} == {"output.bias.weight"}
    assert list(head.buffers()) == []


@pytest.mark.parametrize(("hidden", "heads"), [(16, 1), (384, 6), (768, 12), (312, 4)])
def test_any_width_is_divided_into_heads(hidden: int, heads: int) -> None:
    head = DecoderHead(torch.randn(9, hidden), layers=1, most=3, beams=2, length_penalty=1.0, dropout=0.0)
    (layer,) = head.layers
    assert layer.back.heads == heads  # type: ignore[union-attr]
    inputs = {"given": torch.tensor([[1, 2]]), "end": torch.tensor([3])}
    assert head(torch.randn(1, 4, hidden), torch.ones(1, 4), inputs).isfinite().all()
