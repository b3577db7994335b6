"""Tokens and questions inside the model: learnt by heart, and every row's loss its own."""

from collections.abc import Callable
from typing import Any

from shared.model.multitask import MultiTaskModel

DRUGS = ("aspirin", "ibuprofen", "metformin", "warfarin")
ENTITIES: list[dict[str, Any]] = [
    {"tokens": ["She", "takes", drug, "daily"], "tags": ["O", "O", "B-Drug", "O"]} for drug in DRUGS
] + [
    {"tokens": ["North", "Bank", "sued", "her", number], "tags": ["B-Party", "I-Party", "O", "O", "O"]}
    for number in ("once", "twice", "often", "again")
]
QUESTIONS: list[dict[str, Any]] = [
    {
        "context": f"The patient was given {dose} mg of {drug}.",
        "question": "What dose was given?",
        "answers": [{"text": f"{dose} mg", "start": 22}],
    }
    for dose, drug in zip((10, 20, 30, 40), DRUGS, strict=True)
] + [
    {"context": f"The court sat on {day}.", "question": "What dose was given?", "answers": []}
    for day in ("Monday", "Tuesday", "Friday", "Sunday")
]


def test_tokens_and_questions(
    make_model: Callable[..., MultiTaskModel],
    rows_stand_alone: Callable[..., None],
    learn_by_heart: Callable[..., dict[str, float]],
) -> None:
    model = make_model(
        entities={"type": "token-classification", "types": ["Drug", "Party"]}, notes_qa={"type": "question-answering"}
    )
    rows_stand_alone(model, {"entities": ENTITIES, "notes_qa": QUESTIONS})
    assert learn_by_heart(model, "entities", ENTITIES) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert set(learn_by_heart(model, "notes_qa", QUESTIONS, steps=200).values()) == {1.0}
