"""What tasks compute: one head per task type, in a file named as the task's; they load torch, the tasks do not."""

from typing import Any

import torch

from shared.tasks import Task
from shared.tasks.extractive_summarization import ExtractiveSummarization
from shared.tasks.fill_mask import FillMask
from shared.tasks.heads.base import Head, Tensors
from shared.tasks.heads.extractive_summarization import SentenceHead
from shared.tasks.heads.fill_mask import FillMaskHead
from shared.tasks.heads.next_sentence import NextSentenceHead
from shared.tasks.heads.question_answering import SpanHead
from shared.tasks.heads.relation_extraction import EntityPairHead
from shared.tasks.heads.text_classification import TextHead
from shared.tasks.heads.text_generation import WritingHead
from shared.tasks.heads.text_pair import PairHead, SimilarityHead
from shared.tasks.heads.token_classification import TokenHead
from shared.tasks.next_sentence import NextSentencePrediction
from shared.tasks.question_answering import QuestionAnswering
from shared.tasks.relation_extraction import RelationExtraction
from shared.tasks.text_classification import TextClassification
from shared.tasks.text_generation import TextGeneration
from shared.tasks.text_pair import SentenceSimilarity, TextPairClassification
from shared.tasks.token_classification import TokenClassification

HEADS: dict[type[Task], Any] = {
    TextClassification: TextHead,
    TextPairClassification: PairHead,
    SentenceSimilarity: SimilarityHead,
    TokenClassification: TokenHead,
    RelationExtraction: EntityPairHead,
    QuestionAnswering: SpanHead,
    ExtractiveSummarization: SentenceHead,
    FillMask: FillMaskHead,
    NextSentencePrediction: NextSentenceHead,
    TextGeneration: WritingHead,
}


def build_head(task: Task, embeddings: torch.Tensor, dropout: float) -> Head:
    """The head of a task over states as wide as the backbone's frozen word `embeddings` [vocabulary, hidden]."""
    head: Head = HEADS[type(task)](task, embeddings, dropout)
    return head


__all__ = ["HEADS", "Head", "Tensors", "build_head"]
