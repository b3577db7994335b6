"""The registry of task types.

A new type is one file here and one entry in each of the two tables below, and the same for its head in `heads`.
"""

from typing import Annotated, Any

from pydantic import Field

from shared.tasks.base import Example, Record, Task
from shared.tasks.extractive_summarization import ExtractiveSummarization, ExtractiveSummarizationSpec
from shared.tasks.fill_mask import FillMask, FillMaskSpec
from shared.tasks.next_sentence import NextSentencePrediction, NextSentencePredictionSpec
from shared.tasks.question_answering import QuestionAnswering, QuestionAnsweringSpec
from shared.tasks.relation_extraction import RelationExtraction, RelationExtractionSpec
from shared.tasks.text_classification import TextClassification, TextClassificationSpec
from shared.tasks.text_generation import TextGeneration, TextGenerationSpec
from shared.tasks.text_pair import (
    SentenceSimilarity,
    SentenceSimilaritySpec,
    TextPairClassification,
    TextPairClassificationSpec,
)
from shared.tasks.token_classification import TokenClassification, TokenClassificationSpec

TaskSpec = Annotated[
    TextClassificationSpec
    | TextPairClassificationSpec
    | SentenceSimilaritySpec
    | TokenClassificationSpec
    | RelationExtractionSpec
    | QuestionAnsweringSpec
    | ExtractiveSummarizationSpec
    | FillMaskSpec
    | NextSentencePredictionSpec
    | TextGenerationSpec,
    Field(discriminator="type"),
]
TASK_TYPES: dict[str, Any] = {
    "text-classification": TextClassification,
    "text-pair-classification": TextPairClassification,
    "sentence-similarity": SentenceSimilarity,
    "token-classification": TokenClassification,
    "relation-extraction": RelationExtraction,
    "question-answering": QuestionAnswering,
    "extractive-summarization": ExtractiveSummarization,
    "fill-mask": FillMask,
    "next-sentence-prediction": NextSentencePrediction,
    "text-generation": TextGeneration,
}


def build_task(name: str, spec: TaskSpec) -> Task:
    """The task that a federation file's `[tasks.NAME]` table describes."""
    task: Task = TASK_TYPES[spec.type](name, spec)
    task.weight = spec.weight
    return task


__all__ = ["TASK_TYPES", "Example", "Record", "Task", "TaskSpec", "build_task"]
