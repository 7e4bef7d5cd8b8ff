"""Prompt templates a bundle can be given."""

import json
from pathlib import Path

from ..engines.errors import BundleError, ExportError
from ..runtime.manifest import Template, check_template, parse_template

SKINGPT4 = Template(
    system=(
        "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it "
        "to you. Please answer my questions."
    ),
    first="###Human: <Img><ImageHere></Img> {question}###Assistant:",
    next="###Human: {question}###Assistant:",
    answer=" {answer}",
    stop=("###",),
    answer_after="Assistant:",
)
"""What the original prompts both of its language models with, Llama-2-chat included."""

TEMPLATES = {"skingpt4": SKINGPT4}


def read_template(name: str) -> Template:
    """A template by name, or from a JSON file with the fields of `Template`. Raises ExportError."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise ExportError(f"template {name!r}: neither one of {', '.join(TEMPLATES)} nor a file")
    try:
        template = parse_template(json.loads(path.read_text()), path.name)
        check_template(template, path.name)
    except (ValueError, BundleError) as error:
        raise ExportError(f"template {path}: {error}") from None
    return template
