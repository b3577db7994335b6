"""The fast gradient method, against a loop over single examples that embeds words by itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import BertModel

from client.site import Site
from client.train.adversarial import perturbation, shifted_embeddings, watched_embeddings
from client.train.gradients import accumulate

MakeSite = Callable[..., Site]
EPSILON = 0.7


def test_every_row_is_shifted_by_epsilon_along_its_own_gradient() -> None:
    gradient = torch.randn(3, 4, 5)
    gradient[1] = 0
    shift = perturbation(gradient, EPSILON)
    norms = torch.linalg.vector_norm(shift, dim=(1, 2))
    torch.testing.assert_close(norms, torch.tensor([EPSILON, 0.0, EPSILON]))
    torch.testing.assert_close(shift[0], EPSILON * gradient[0] / gradient[0].norm())


@pytest.mark.parametrize("combine", ["fixed", "pcgrad"])
def test_the_gradients_of_both_passes_add_up(make_site: MakeSite, combine: str) -> None:
    tasks = ("clauses",) if combine == "pcgrad" else ("clauses", "entities", "notes_qa")
    options = {"head_dropout": 0.0, "precision": "float32", "adversarial_epsilon": EPSILON, "combine": combine}
    site = make_site(*tasks, training=options)
    model, examples = site.model.train(), site.examples("train")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    bert = model.encoder.get_base_model()
    assert isinstance(bert, BertModel)

    def loss_of(embedded: torch.Tensor, row: int) -> torch.Tensor:
        batch = model.collate([examples[row]])
        states = bert(
            inputs_embeds=embedded, attention_mask=batch.attention_mask, token_type_ids=batch.token_type_ids
        ).last_hidden_state
        task = examples[row].task
        logits = {task: model.heads[task](states, batch.attention_mask, batch.inputs[task])}
        return model.losses(batch, logits)[task].sum() / len(examples)

    for row in range(len(examples)):
        ids = model.collate([examples[row]]).input_ids
        embedded = bert.embeddings.word_embeddings(ids).detach().requires_grad_()
        clean = loss_of(embedded, row)
        clean.backward()  # type: ignore[no-untyped-call]
        assert embedded.grad is not None
        shift = EPSILON * embedded.grad / embedded.grad.norm()
        loss_of((embedded + shift).detach(), row).backward()  # type: ignore[no-untyped-call]
    slow = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    for parameter in trained.values():
        parameter.grad = None
    accumulate(model, examples, site.federation.training, {}, np.random.default_rng(0))
    largest = max(float(gradient.abs().max()) for gradient in slow.values())
    for name, gradient in slow.items():
        fast = trained[name].grad
        assert fast is not None
        assert float((fast - gradient).abs().max()) < 1e-5 * largest, name


def test_hooks_are_gone_afterwards_and_after_an_error(make_site: MakeSite) -> None:
    site = make_site("clauses")
    model = site.model.eval()
    batch = model.collate(site.examples("train")[:2])
    with torch.no_grad():
        before = model(batch)["clauses"]
        shift = torch.ones(*batch.input_ids.shape, 32)
        with watched_embeddings(model) as seen, shifted_embeddings(model, shift):
            assert not torch.equal(model(batch)["clauses"], before)
        assert torch.equal(model(batch)["clauses"], before)
        with pytest.raises(RuntimeError), watched_embeddings(model), shifted_embeddings(model, torch.ones(3, 5)):
            model(batch)  # a shift of the wrong shape
        assert torch.equal(model(batch)["clauses"], before)
    assert len(seen) == 1
