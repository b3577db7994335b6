"""SQuAD's JSON, 1.1 and 2.0: articles of paragraphs, each with its questions."""

from collections.abc import Iterator, Mapping
from typing import Any

from client.data.readers.base import BadRow, Place, Rows, Source, not_text, open_text
from client.data.readers.json_array import elements


def read(source: Source) -> Rows:
    """A record for each question, answered or not; place is the line of its article and its id.

    What else stands in an article, a paragraph or a question is a column, such as `title` and `id`.
    """
    with open_text(source.path, source.how.encoding) as stream:
        for line, text, article in elements(stream, source.path, key="data"):
            if bad := not_text(text, source.how.encoding):
                yield line, bad
            else:
                yield from _questions(line, article)


def _questions(line: int, article: Any) -> Iterator[tuple[Place, dict[str, Any] | BadRow]]:
    paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
    if not isinstance(paragraphs, list):
        yield line, BadRow("expected an article with a list of 'paragraphs', but there is none")
        return
    for number, paragraph in enumerate(paragraphs, start=1):
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list) or not all(isinstance(each, Mapping) for each in questions):
            yield f"line {line}, paragraph {number}", BadRow("expected a list of questions in 'qas', but none came")
            continue
        beside = _but(article, "paragraphs") | _but(paragraph, "qas")
        for question in questions:
            yield f"line {line}, question {question.get('id', '?')}", _record(beside, question)


def _record(beside: dict[str, Any], question: Mapping[str, Any]) -> dict[str, Any] | BadRow:
    given = question.get("answers") or []
    if not isinstance(given, list) or not all(isinstance(answer, Mapping) for answer in given):
        return BadRow("expected a list of objects in 'answers', but something else came")
    if not given and question.get("is_impossible") is False:
        return BadRow("expected an answer, since is_impossible is false, but none came")
    answers = [] if question.get("is_impossible") else [_answer(answer) for answer in given]
    return beside | _but(question, "answers", "plausible_answers", "is_impossible") | {"answers": answers}


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": answer.get("text"), "start": answer.get("answer_start")}


def _but(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}
