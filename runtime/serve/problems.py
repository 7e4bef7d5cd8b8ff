"""Every error that the service answers with: a code that stays the same, a status, and a sentence.

Native routes answer with a problem document (RFC 9457), OpenAI's routes in OpenAI's shape.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

STATUS = {
    # The caller may not do this.
    "host_not_allowed": 421,
    "origin_not_allowed": 403,
    "token_missing": 401,
    "token_wrong": 401,
    "route_unknown": 404,
    "method_not_allowed": 405,
    # The request cannot be used.
    "request_malformed": 400,
    "headers_too_large": 431,
    "body_too_large": 413,
    "body_too_slow": 408,
    "content_type_wrong": 415,
    "json_unusable": 400,
    "value_unusable": 400,
    "field_unknown": 400,
    "unsupported": 400,
    "model_unknown": 404,
    "image_missing": 400,
    "image_url_unusable": 400,
    "image_unusable": 422,
    "image_decoder_died": 422,
    "question_unusable": 400,
    "conversation_unknown": 404,
    "conversation_busy": 409,
    "conversation_deleted": 410,
    # The service cannot do it now.
    "queue_full": 503,
    "memory_full": 503,
    "model_loading": 503,
    "model_unavailable": 503,
    "worker_ended": 503,
    "worker_hung": 503,
    "answer_too_slow": 504,
    "shutting_down": 503,
    # Something is wrong with the model or with us.
    "bundle_unusable": 500,
    "numerical_error": 500,
    "engine_failed": 500,
    "out_of_memory": 500,
    "internal_error": 500,
}
"""Each code and its HTTP status."""
OPENAI_CODES = {
    "token_missing": "invalid_api_key",
    "token_wrong": "invalid_api_key",
    "model_unknown": "model_not_found",
}
NATIVE_PATHS = ("/v1/reports", "/v1/conversations")


class Problem(Exception):
    """An error that is answered. Its text never holds what a client sent, a path or a name of a file."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        """`param`: the field that is wrong; `retry_after`: seconds after which to ask again; `allow`: methods."""
        super().__init__(detail)
        self.code = code
        self.status = STATUS[code]
        self.detail = detail
        self.param = param
        self.retry_after = retry_after
        self.allow = allow

    def document(self, request_id: str) -> dict[str, Any]:
        """A problem document. It has `retry_after`, too, because an `error` event has no headers."""
        found = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }
        more = {"param": self.param, "retry_after": self.retry_after}
        return {**found, **{name: value for name, value in more.items() if value is not None}}

    def openai(self) -> dict[str, Any]:
        """The same in OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        code = OPENAI_CODES.get(self.code, self.code)
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": code}}


def openai_shaped(path: str) -> bool:
    """Whether an error has OpenAI's shape: wherever OpenAI's clients may ask, also for what there is not."""
    native = any(path == one or path.startswith(f"{one}/") for one in NATIVE_PATHS)
    return path.startswith("/v1/") and not native


def error_response(problem: Problem, path: str, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request for this path."""
    openai = openai_shaped(path)
    body = json.dumps(problem.openai() if openai else problem.document(request_id)).encode()
    headers = {"content-type": "application/json" if openai else "application/problem+json"}
    # The rest of a body that was not read would be taken for the next request.
    headers["connection"] = "close"
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if problem.allow:
        headers["allow"] = ", ".join(problem.allow)
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return problem.status, headers, body


def worker_problem(header: Mapping[str, Any]) -> Problem:
    """What a worker's `error` message says."""
    code = str(header.get("code"))
    return Problem(code if code in STATUS else "internal_error", str(header.get("detail")))
