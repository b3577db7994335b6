"""What OpenAPI says of the door: summaries, forms and examples."""

from importlib.metadata import version
from typing import Any

from fastapi import Depends
from fastapi.security import HTTPBearer

INPUT: dict[str, Any] = {
    "oneOf": [
        {"type": "string", "description": "A text."},
        {"type": "object", "description": "A record of the task, or `text` and what goes with it as `text_pair`."},
    ]
}
BODY: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {"inputs": {"oneOf": [*INPUT["oneOf"], {"type": "array", "items": INPUT, "minItems": 1}]}},
}
QUESTIONS: dict[str, Any] = {
    "one text": {"value": {"inputs": "She takes aspirin daily."}},
    "many texts": {"value": {"inputs": ["The buyer pays within 30 days.", "Neither party is liable."]}},
    "a question": {"value": {"inputs": {"context": "Rent is due on Monday.", "question": "When is rent due?"}}},
    "a pair": {"value": {"inputs": {"text": "It rains.", "text_pair": "The street is wet."}}},
    "words": {"value": {"inputs": {"tokens": ["She", "takes", "aspirin"]}}},
}
LABEL = {"label": "payment", "score": 0.98}
ENTITIES = [{"entity_group": "Drug", "score": 0.97, "word": "aspirin", "start": 10, "end": 17, "tokens": [2, 3]}]
ANSWERS: dict[str, Any] = {
    "text classification": {"value": LABEL},
    "token classification": {"value": ENTITIES},
    "question answering": {"value": {"score": 0.91, "start": 15, "end": 21, "answer": "Monday"}},
    "many texts": {"value": [LABEL, {"label": "liability", "score": 0.99}]},
}
REFUSALS: dict[int, str] = {
    400: "No JSON.",
    401: "No token, or a wrong one.",
    403: "A token of another role.",
    404: "No such task.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    422: "An input cannot be read; which, and what was expected.",
    429: "More texts than the token's rate allows; `Retry-After` says when.",
    503: "Too much is waiting; `Retry-After` says when there may be room.",
    504: "No answer within the deadline.",
}
ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}


def _responses(examples: dict[str, Any], *refusals: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Answered.", "content": _json(examples)}}
    return found | {code: {"description": REFUSALS[code], "content": ERROR} for code in refusals}


def _json(examples: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"examples": examples}}


BEARER: dict[str, Any] = {"dependencies": [Depends(HTTPBearer(auto_error=False, scheme_name="token"))]}
"""Says that a token is shown; `app.py` looks at it."""
ASKED: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": BODY, "examples": QUESTIONS}}},
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "example": "wait=5"},
            "description": "`wait=SECONDS`: how long the client waits, if less than the server's deadline.",
        }
    ],
}
ABOUT: dict[str, Any] = {
    "title": "Collegium",
    "version": version("collegium"),
    "description": "Answers of a released bundle, in the form of Hugging Face's pipelines of the same tasks.",
}
PREDICT: dict[str, Any] = {
    "summary": "One task's answers to one text or many",
    "responses": _responses(ANSWERS, *REFUSALS),
    "openapi_extra": ASKED,
} | BEARER
PREDICT_ALL: dict[str, Any] = {
    "summary": "The answers of all tasks that can read a text, which passes the encoder once",
    "responses": _responses({"one text": {"value": {"clauses": LABEL, "entities": ENTITIES}}}, *REFUSALS),
    "openapi_extra": ASKED,
} | BEARER
TASKS: dict[str, Any] = {
    "summary": "The tasks that are served",
    "responses": _responses({"two": {"value": {"clauses": {"type": "text-classification"}}}}, 401),
} | BEARER
HEALTH: dict[str, Any] = {
    "summary": "Whether it answers",
    "responses": _responses({"yes": {"value": {"status": "SERVING"}}}) | {503: {"description": "It does not."}},
}
METRICS: dict[str, Any] = {"summary": "For Prometheus"} | BEARER
RELOAD: dict[str, Any] = {
    "summary": "Read the bundles and the tokens again; no request is lost",
    "responses": _responses({"done": {"value": {"reloaded": True}}}, 401, 403)
    | {409: {"description": "They could not be read; the old ones stay.", "content": ERROR}},
} | BEARER
