"""`openapi.json` describes the service as it is: schemathesis asks it thousands of things and finds no difference."""

import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from service import PICTURES
from skingpt_edge.runtime.serve import native_api, openai_request, settings
from skingpt_edge.runtime.serve.app import make_app
from skingpt_edge.runtime.serve.problems import OPENAI_CODES, STATUS, openai_shaped
from skingpt_edge.runtime.serve.service import Service
from support import encode

OPENAPI = json.loads((files("skingpt_edge.runtime.serve") / "openapi.json").read_text())
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "5"))
"""Of each route in each phase; 5 are about 600 cases, 300 several thousand."""


def routes() -> set[tuple[str, str]]:
    app = make_app(Service(settings.Settings("")), port=1, token="")
    router = app._app._app
    described = [route for route in router.routes if route.include_in_schema]  # not the files of the kiosk page
    return {(route.path, method) for route in described for method in route.methods - {"HEAD"}}


def operations() -> dict[tuple[str, str], dict]:
    return {
        (path, method.upper()): operation
        for path, item in OPENAPI["paths"].items()
        for method, operation in item.items()
    }


def resolved(reference: dict) -> dict:
    found = OPENAPI
    for name in reference["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def codes(operation: dict) -> dict[int, set[str]]:
    """The error codes of an operation by status."""
    found = {}
    for status, reference in operation["responses"].items():
        if int(status) >= 400 and "$ref" in reference:
            [content] = resolved(reference)["content"].values()
            properties = content["schema"]["allOf"][1]["properties"]
            found[int(status)] = set(properties.get("error", {"properties": properties})["properties"]["code"]["enum"])
    return found


def test_every_route_is_described_and_none_besides():
    assert routes() == {*operations()}


def test_every_error_code_is_described_with_its_status():
    described = {
        (code, status) for each in operations().values() for status, found in codes(each).items() for code in found
    }
    assert described == {*STATUS.items()} | {(OPENAI_CODES.get(code, code), status) for code, status in STATUS.items()}
    for (path, _), operation in operations().items():
        kinds = {
            kind for status in codes(operation) for kind in resolved(operation["responses"][str(status)])["content"]
        }
        assert kinds == {"application/json" if openai_shaped(path) else "application/problem+json"}, path


def test_all_references_lead_somewhere_and_nothing_is_left_over():
    text = json.dumps(OPENAPI)
    for kind, parts in OPENAPI["components"].items():
        for name in parts:
            assert f'"#/components/{kind}/{name}"' in text or kind == "securitySchemes", name
    for reference in re.findall(r'"#/[^"]+"', text):
        assert resolved({"$ref": reference.strip('"')})


def test_the_limits_are_those_of_the_service():
    chat, question = (OPENAPI["components"]["schemas"][name]["properties"] for name in ("ChatRequest", "Question"))
    assert question["question"]["maxLength"] == settings.MAX_QUESTION
    assert chat["n"]["maximum"] == settings.MAX_CHOICES
    assert {*chat} == {*openai_request.ChatRequest.__struct_fields__, *openai_request.NEUTRAL, *openai_request.HARMLESS}
    for name, values in openai_request.NEUTRAL.items():
        assert chat[name] == {"enum": [*values, None]}
    assert {*question} == {*native_api.Ask.__struct_fields__}
    [report] = OPENAPI["paths"]["/v1/reports"].values()
    assert {one["name"] for one in report["parameters"]} == {*native_api.Generation.__struct_fields__}
    assert {*report["requestBody"]["content"]} == native_api.IMAGES


def test_a_question_is_what_is_not_white_space_to_python():
    pattern = OPENAPI["components"]["schemas"]["Question"]["properties"]["question"]["pattern"]
    for letter in map(chr, range(0x11000)):
        assert bool(re.search(pattern, letter)) == bool(letter.strip()), hex(ord(letter))


def test_the_service_serves_it(service):
    status, headers, body = service.request("GET", "/openapi.json")
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", OPENAPI)


def test_a_report_is_as_described(service):
    schema = {**OPENAPI["components"]["schemas"]["Report"], "components": OPENAPI["components"]}
    jsonschema.Draft202012Validator(schema).validate(service.report())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Small, because they are sent often."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in PICTURES[:3]:
        (folder / path.name).write_bytes(encode(Image.open(path).resize((80, 80)), "JPEG"))
    return folder


def test_schemathesis_finds_nothing(service, pictures, tmp_path):
    """Its own checks, all that are on by default; good requests and such that are to be refused."""
    description = Path(str(files("skingpt_edge.runtime.serve") / "openapi.json"))
    environment = {
        **os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent),
        "PICTURES": str(pictures), "SERVICE_URL": service.url, "SERVICE_TOKEN": service.token,
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", str(description), "--url", service.url,
        "--header", f"Authorization: Bearer {service.token}", "--max-examples", str(EXAMPLES), "--seed", "1",
        "--generation-database", "none", "--request-timeout", "120", "--no-color",
    ]  # fmt: skip
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    said = "\n".join(line[:300] for line in ran.stdout.splitlines())
    assert ran.returncode == 0, said[-20_000:]
    summary = re.search(r"(\d+) generated, (\d+) passed", said)
    assert summary and int(summary[1]) > 300, said
    assert f"Tested: {len(operations())}" in said
