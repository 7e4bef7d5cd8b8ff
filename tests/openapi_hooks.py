"""What schemathesis is told of the service beside its description: photos, and what words alone say there.

The description cannot say which messages make a conversation, nor how long a question the loaded model's context
takes. Where a case is to be a good one, only that is mended; cases that are to be refused stay as they are.
"""

import base64
import json
import os
import urllib.request
from pathlib import Path

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

PICTURES = [path.read_bytes() for path in sorted(Path(os.environ["PICTURES"]).iterdir())]
TOKENS = 8  # of an answer, so that thousands of them take minutes
LETTERS = 200  # of a question


def model() -> str:
    url, token = os.environ["SERVICE_URL"], os.environ["SERVICE_TOKEN"]
    asked = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["data"][0]["id"]


MODEL = model()
for kind in ("image/jpeg", "image/png", "image/webp"):  # what a photo is, its bytes say
    schemathesis.openapi.media_type(kind, st.sampled_from(PICTURES))


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict) -> None:
    """Mend a case that is to be a good one."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if case.query and "max_new_tokens" in case.query:
        case.query["max_new_tokens"] = TOKENS
    elif case.path == "/v1/reports":
        case.query = {**(case.query or {}), "max_new_tokens": TOKENS}
    if not isinstance(case.body, dict):
        return
    if case.path == "/v1/chat/completions":
        case.body = {**case.body, "model": MODEL, "messages": conversation(case.body["messages"]), "max_tokens": TOKENS}
        if case.body.get("max_completion_tokens"):
            case.body["max_completion_tokens"] = TOKENS
        return
    case.body = {**case.body, "max_new_tokens": TOKENS}
    if case.body.get("question"):
        case.body["question"] = case.body["question"].strip()[:LETTERS]


def conversation(messages: list[dict]) -> list[dict]:
    """User and assistant in turn, with the texts of these messages, and a photo in the first one."""
    texts = [text.strip()[:LETTERS] for message in messages[:5] for text in texts_of(message) if text.strip()]
    texts = texts or ["What is this?"]
    texts = texts[: len(texts) - 1 + len(texts) % 2]
    roles = ["user", "assistant"] * len(texts)
    url = "data:image/jpeg;base64," + base64.b64encode(PICTURES[len(texts[0]) % len(PICTURES)]).decode()
    first = [{"type": "text", "text": texts[0]}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": role, "content": text} for role, text in zip(roles, [first, *texts[1:]], strict=False)]


def texts_of(message: dict) -> list[str]:
    content = message.get("content") or ""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]
