"""What the service and `skingpt kiosk` do for the kiosk page, without a browser."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from service import PHOTO, SKINGPT, RunningService, free_port, running
from skingpt_edge.runtime import image_notes
from skingpt_edge.runtime.serve.page_files import PAGE, PAGE_PATHS
from skingpt_edge.runtime.serve.problems import STATUS
from support import ROOT, run

FOLDER = ROOT / "runtime/serve/page"
FILES = [file for file in FOLDER.rglob("*") if file.is_file()]
TEXTS = {file.stem: json.loads(file.read_text()) for file in (FOLDER / "texts").iterdir()}
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".json": "application/json", ".svg": "image/svg+xml",
}  # fmt: skip
NO_TOKEN = {"authorization": ""}


# The files.


def test_every_file_of_the_folder_is_served_and_nothing_else():
    assert {f"{PAGE}{file.relative_to(FOLDER)}" for file in FILES} - {f"{PAGE}index.html"} | {PAGE} == PAGE_PATHS


@pytest.mark.parametrize("path", sorted(PAGE_PATHS))
def test_a_file_is_served_to_whoever_asks_with_strict_headers(service, path):
    status, headers, body = get(service, path)
    file = FOLDER / (path.removeprefix(PAGE) or "index.html")
    assert (status, body) == (200, file.read_bytes())
    assert headers["content-type"] == TYPES[file.suffix]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    expected = {
        "cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
    }  # fmt: skip
    assert {name: headers[name] for name in expected} == expected
    assert headers["permissions-policy"].startswith("camera=(self), ")
    assert "access-control-allow-origin" not in headers and "set-cookie" not in headers


def get(service: RunningService, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Without a token."""
    connection = service.connect()
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return found


VISIT = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


def test_the_guard_lets_a_browser_come_to_the_page_from_a_file_and_to_nothing_else(service):
    assert get(service, PAGE, **VISIT)[0] == 200
    assert get(service, PAGE, **VISIT, host="evil.example")[0] == 421
    assert get(service, PAGE, **VISIT, origin="http://evil.example")[0] == 403
    assert get(service, PAGE, **VISIT, origin="null")[0] == 403
    for other in ({"sec_fetch_mode": "no-cors"}, {"sec_fetch_dest": "iframe"}, {"sec_fetch_dest": "script"}):
        assert get(service, PAGE, **{**VISIT, **other})[0] == 403
    for path in (f"{PAGE}main.js", f"{PAGE}texts/en.json", "/healthz"):
        assert get(service, path, **VISIT)[0] == 403
    for path in ("/about", "/v1/models", f"{PAGE}other.js", f"{PAGE}../token", "/kiosk"):
        assert get(service, path)[0] == 401
        assert get(service, path, **VISIT)[0] == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = get(service, PAGE, method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_nothing_of_the_page_comes_from_elsewhere_or_stands_in_the_markup():
    """No address of another place, no script or style in the page's own markup, no text that becomes markup."""
    for file in FILES:
        text = file.read_text()
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}, file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file
        )
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=\"main.js\"></script>)", page)


# The words.


def keys(found: dict, prefix: str = "") -> set[str]:
    return {
        key
        for name, value in found.items()
        for key in (keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"})
    }


def test_all_languages_have_the_same_texts_with_the_same_places_to_fill_in():
    english = TEXTS["en"]
    for language in TEXTS.values():
        assert keys(language) == keys(english)
        for key in keys(english):
            assert places(language, key) == places(english, key), key
    asked = [[one["ask"] for one in language["questions"]["suggestions"]] for language in TEXTS.values()]
    assert all(one == asked[0] for one in asked)


def places(language: dict, key: str) -> set[str]:
    found = language
    for name in key.split("."):
        found = found[name]
    return set(re.findall(r"\{(\w+)\}", str(found)))


def test_every_text_that_the_page_asks_for_is_there_and_every_one_is_used():
    code = "\n".join(file.read_text() for file in FILES if file.suffix in (".js", ".html"))
    asked = set(re.findall(r"""["'`]([a-z_]+(?:\.[a-z_0-9]+)+)["'`]""", code))
    known = keys(TEXTS["en"])
    groups = {key.split(".")[0] for key in known}
    assert {key for key in asked if key.split(".")[0] in groups} - {"report.css"} <= known
    made = re.compile(
        r"(problems|camera_problems|notes|sections|receipt|questions\.suggestions|report\.stage_states)\.?"
    )
    assert {key for key in known - asked if not made.match(key)} == {"language", "title", "wiped"}


def test_notes_on_a_photo_have_a_translation_and_errors_a_text():
    notes = {value.code for value in vars(image_notes).values() if isinstance(value, image_notes.Note)}
    assert set(TEXTS["en"]["notes"]) == notes
    named = set(re.findall(r'"(\w+)"', (FOLDER / "problems.js").read_text().split("const shown")[0]))
    assert named <= {*STATUS, "lost", "other", "loading", "interrupted"}


# The routes.


def test_the_service_says_what_a_person_should_know_first(service):
    status, _, body = service.request("GET", "/about")
    found = json.loads(body)
    assert status == 200
    assert found["notice"].startswith("Demonstration") and len(found["sections"]) == 4
    assert found["kiosk"] == {"idle_seconds": 60, "file": True, "print": True, "save": True}
    service.report()
    assert 0 < json.loads(service.request("GET", "/about")[2])["report_seconds"] < 100


def test_what_tune_measured_says_how_long_a_report_will_take(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    tuned = subprocess.run([SKINGPT, "tune"], env={**os.environ, **cache}, capture_output=True, check=False)
    assert tuned.returncode == 0
    options = "--kiosk-idle", "30", "--kiosk-without", "save"
    with running(tmp_path, *options, **cache) as service:
        found = json.loads(service.request("GET", "/about")[2])
    assert 0 < found["report_seconds"] < 100
    assert found["kiosk"] == {"idle_seconds": 30, "file": True, "print": True, "save": False}


def test_a_report_of_a_conversation_is_that_of_the_photo(service):
    opened = json.loads(service.request("POST", "/v1/conversations", PHOTO, content_type="image/jpeg")[2])
    path = f"/v1/conversations/{opened['id']}"
    names = [name for name, _ in service.events(f"{path}/report", b"{}", "application/json")]
    assert names[:2] == ["conversation", "stage"] and names[-1] == "report"
    text = {"content_type": "application/json", "accept": "application/json"}
    cut = json.loads(service.request("POST", f"{path}/report", b'{"max_new_tokens": 2}', **text)[2])
    assert [len(turn["token_ids"]) for turn in cut["turns"]] == [2] * 4
    service.request("DELETE", path)
    assert service.request("POST", f"{path}/report", b"{}", **text)[0] == 404


def test_several_answers_and_how_far_they_agree(service):
    opened = json.loads(service.request("POST", "/v1/conversations", PHOTO, content_type="image/jpeg")[2])
    path = f"/v1/conversations/{opened['id']}/consistency"
    asked = json.dumps({"choices": 3, "seed": 7, "temperature": 1.5}).encode()
    events = service.events(path, asked, "application/json")
    samples = [data for name, data in events if name == "sample"]
    (found,) = [data for name, data in events if name == "consistency"]
    assert [one["number"] for one in sorted(samples, key=lambda one: one["number"])] == [0, 1, 2]
    assert len({one["text"] for one in samples}) > 1  # really sampled
    assert found["agreement"] == max((one["count"] for one in found["conditions"] if one["condition"]), default=0) / 3
    assert sum(one["count"] for one in found["conditions"]) == 3
    for one in found["samples"]:
        assert one["condition"] is None or one["condition"] in one["text"].lower()
    # The same as the command's, for the same seed.
    said = run("skingpt", "diagnose", ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg", "--samples", "3",
               "--seed", "7", "--temperature", "1.5", "--json")  # fmt: skip
    command = json.loads(said.stdout)
    assert {name: command[name] for name in ("samples", "conditions", "agreement", "question", "seed")} == {
        name: found[name] for name in ("samples", "conditions", "agreement", "question", "seed")
    }
    for body in (b'{"choices": 1}', b'{"choices": 9}', b'{"question": " "}', b'{"other": 1}'):
        assert service.request("POST", path, body, content_type="application/json")[0] == 400


# The file that starts the page.


def test_the_start_file_is_its_owners_alone_and_runs_nothing_else(service, tmp_path):
    file = tmp_path / "start.html"
    command = ["skingpt", "kiosk", file, "--port", service.port, "--token-file", service.token_file]
    old = os.umask(0)
    try:
        made = run(*command)
    finally:
        os.umask(old)
    assert (made.returncode, made.stdout) == (0, f"{file.as_uri()}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert f"http://127.0.0.1:{service.port}/kiosk/#token={service.token}" in text
    assert "default-src 'none'; script-src 'sha256-" in text
    assert service.token not in made.stdout + made.stderr
    assert run(*command).returncode == 0  # its own file is replaced
    other = tmp_path / "other.html"
    other.write_text("a letter")
    assert run("skingpt", "kiosk", other, "--token-file", service.token_file).returncode == 2
    assert other.read_text() == "a letter"


def test_it_can_wait_for_a_service_that_is_started_later(tmp_path):
    port, file = free_port(), tmp_path / "start.html"
    program = str(Path(sys.executable).with_name("skingpt"))
    command = [program, "kiosk", str(file), "--port", str(port), "--token-file", str(tmp_path / "token"), "--wait"]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    service = RunningService(tmp_path, "--port", str(port), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert waiting.wait(300) == 0 and service.token in file.read_text()
    service.stop()
    waiting.stdout.close()


def test_what_the_start_file_cannot_be_is_refused(tmp_path):
    for arguments in (["--port", "0"], ["--token-file", tmp_path / "none"]):
        assert run("skingpt", "kiosk", tmp_path / "start.html", *arguments).returncode in (2, 3)
    assert run("skingpt", "kiosk", tmp_path / "no" / "start.html").returncode == 2
    assert not list(tmp_path.iterdir())
