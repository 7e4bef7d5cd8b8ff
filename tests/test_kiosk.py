"""The kiosk page in a real browser: from a photo to a report, questions and paper, and then nothing is left."""

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from kiosk import FAKE_CAMERA, TEXTS, WIDER, Kiosk, about, chromium, left_in, needs_chromium
from playwright.sync_api import expect
from service import PICTURES, RunningService
from support import DATA

pytestmark = needs_chromium
MADE = DATA / "photos/made"
FOCUS = """() => {
    const style = getComputedStyle(document.activeElement);
    return [document.activeElement.id, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}"""
"""The id of the element that has the focus, and whether that is to be seen."""


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def browser(profile):
    with chromium(profile, FAKE_CAMERA) as found:
        yield found


@pytest.fixture
def kiosk(browser, service, request):
    """A window of its own; `request.param`: its language and what else is different."""
    given = dict(getattr(request, "param", {}))
    language = given.pop("language", "en")
    context = browser.new_context(**{"viewport": {"width": 540, "height": 960}, **given})
    context.grant_permissions(["camera"], origin=service.url)
    yield Kiosk(context, service, language)
    context.close()


WIDE = {"width": 960, "height": 540}
BOTH = [{"language": "en"}, {"language": "ja", "color_scheme": "dark", "viewport": WIDE}]
LANGUAGES = pytest.mark.parametrize("kiosk", BOTH, indirect=True, ids=["English", "Japanese"])


@LANGUAGES
def test_a_photo_a_report_a_question_paper_and_then_nothing_is_left(kiosk, service, profile):
    page = kiosk.page
    page.clock.install()
    before = conversations(service)
    kiosk.start()
    page.locator("#start-title").click()  # from the first touch on, the page stands twice in the history
    clean = left_in(page)
    kiosk.check()
    kiosk.photo()
    kiosk.check()
    conversation = kiosk.conversation()
    kiosk.button("check.get_report").click()
    kiosk.finished()
    words = kiosk.words()
    kiosk.check()
    assert words == "\n".join(answers(service, PICTURES[0].read_bytes()))

    page.locator(".suggestion").nth(1).click()
    answer = page.locator(".turn .answer")
    expect(answer).to_have_text(re.compile(r"^The border is .*\.$"))
    expect(page.locator("#ask")).to_be_visible()
    said = answer.text_content()

    # Paper.
    page.emulate_media(media="print")
    assert page.locator("button:visible, input:visible, nav:visible").count() == 0
    for text in (*words.splitlines(), said, page.locator("#report-notice").text_content()):
        expect(page.get_by_text(text, exact=True).filter(visible=True).first).to_be_visible()
    assert len(re.findall(rb"/Type ?/Page\b", page.pdf(prefer_css_page_size=True))) == 1
    page.emulate_media(media="screen")

    # Nobody touches anything any more.
    page.mouse.move(9, 9)
    page.clock.fast_forward(61_000)
    expect(page.get_by_role("alertdialog")).to_be_visible()
    kiosk.check()
    assert json.loads(service.request("POST", f"/v1/conversations/{conversation}/report")[2])["code"] != UNKNOWN
    page.clock.fast_forward(21_000)
    kiosk.shown("start")
    expect(page.locator("#wiped")).to_have_text(TEXTS["en"]["wiped"])
    kiosk.check()
    kiosk.until(lambda: conversation not in left_in(page))  # the service has said that it is deleted
    left = left_in(page)
    secrets = [conversation, *words.splitlines(), said, "blob:"]
    assert not [secret for secret in secrets if secret in left]
    assert words_of(left) - words_of(clean) <= OWN_WORDS
    assert json.loads(service.request("POST", f"/v1/conversations/{conversation}/report")[2])["code"] == UNKNOWN
    assert conversations(service) <= before  # some of other tests may have expired meanwhile
    assert found_in(profile, [*secrets[:-1], service.token], PICTURES[0].read_bytes()) == []


UNKNOWN, JSON = "conversation_unknown", "application/json"


OWN_WORDS = {"hidden", "largest", "larger"}.union(*(re.findall(r"\w+", json.dumps(one)) for one in TEXTS.values()))


def words_of(left: str) -> set[str]:
    """All words in what was looked at: in texts, names and values."""
    return set(re.findall(r"\w+", left))


def answers(service: RunningService, photo: bytes) -> list[str]:
    """Of a report, by another client."""
    status, headers, body = service.request("POST", "/v1/reports", photo, content_type="image/jpeg", accept=JSON)
    assert status == 200
    assert service.request("DELETE", f"/v1/conversations/{headers['x-conversation-id']}")[0] == 204
    return [turn["text"] for turn in json.loads(body)["turns"]]


def conversations(service: RunningService) -> float:
    return float(re.search(rb"^skingpt_conversations (.*)$", service.request("GET", "/metrics")[2], re.M)[1])


def found_in(profile: Path, secrets: list[str], photo: bytes) -> list[tuple[Path, str]]:
    """Which of these strings the browser has written into which file."""
    data = {}
    for folder, _, names in os.walk(profile):
        for file in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):  # the browser has removed it meanwhile
                if file.is_file() and not file.is_symlink():
                    data[file] = file.read_bytes()
    assert len(data) > 20  # it does write some
    found = [(file, secret) for file in data for secret in secrets if secret.encode() in data[file]]
    return found + [(file, "the photo") for file in data if photo[1000:1040] in data[file]]


def test_the_camera_takes_a_photo_which_can_be_taken_again(kiosk):
    kiosk.start().accept().button("photo.use_camera").click()
    expect(kiosk.page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    kiosk.check()
    kiosk.page.evaluate("window.track = document.querySelector('video').srcObject.getTracks()[0]")
    kiosk.button("photo.take").click()
    kiosk.shown("check")
    expect(kiosk.page.locator("#check-photo")).to_be_visible()
    assert kiosk.page.evaluate("window.track.readyState") == "ended"  # it is switched off
    kiosk.button("check.retake").click()
    expect(kiosk.page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    kiosk.page.evaluate("""() => {
        window.counted = [];
        const number = document.getElementById('countdown');
        new MutationObserver(() => window.counted.push(number.textContent)).observe(number, { childList: true });
    }""")
    kiosk.button("photo.take_later").click()
    kiosk.shown("check")
    assert kiosk.page.evaluate("window.counted") == ["3", "2", "1", ""]
    expect(kiosk.page.locator("#get-report:visible, #use-anyway:visible")).to_be_enabled()
    assert kiosk.errors == []


@LANGUAGES
def test_what_is_wrong_with_a_photo_is_said_before_the_model_is_asked(kiosk):
    kiosk.start().accept().choose(MADE / "small.png")
    expect(kiosk.page.locator("#advice li")).to_have_text([kiosk.text("notes.blurred"), kiosk.text("notes.small")])
    kiosk.button("check.another").click()
    kiosk.choose(MADE / "dark.png")
    notes = [kiosk.text("notes.dark"), kiosk.text("notes.blurred")]
    expect(kiosk.page.locator("#advice li")).to_have_text(notes)
    kiosk.check()
    kiosk.button("check.use_anyway").click()
    expect(kiosk.page.locator("#report-notes li")).to_have_text(notes)


def test_a_report_is_not_lost_by_one_wrong_touch(kiosk):
    kiosk.start().report().button("header.start_over").click()
    kiosk.check()
    kiosk.button("sure.keep").click()
    expect(kiosk.page.locator("#sections article")).to_have_count(4)
    kiosk.button("header.start_over").click()
    kiosk.button("sure.delete").click()
    kiosk.shown("start")


def test_back_leads_to_the_screen_before_and_loses_nothing_unasked(kiosk):
    page = kiosk.page
    kiosk.start().report()
    page.go_back()
    kiosk.button("sure.keep").click()
    expect(page.locator("#sections article")).to_have_count(4)
    kiosk.button("report.other_photo").click()
    kiosk.button("sure.delete").click()
    kiosk.shown("photo")
    kiosk.button("photo.use_camera").click()
    expect(page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    page.go_back()
    expect(kiosk.button("photo.choose_file")).to_be_visible()
    kiosk.choose(PICTURES[1])
    expect(kiosk.button("check.get_report")).to_be_visible()
    page.go_back()
    kiosk.shown("photo")
    page.go_back()
    kiosk.shown("start")
    assert kiosk.errors == []


@pytest.mark.parametrize("kiosk", [{"locale": "ja-JP"}], indirect=True)
def test_the_page_begins_in_the_browsers_language_and_comes_back_to_it(kiosk):
    title = kiosk.page.locator("#start-title")
    kiosk.start()
    expect(title).to_have_text(TEXTS["ja"]["start"]["title"])
    kiosk.accept()  # which chooses English
    kiosk.button("header.start_over").click()
    expect(title).to_have_text(TEXTS["ja"]["start"]["title"])


def test_a_photo_can_be_dropped_anywhere(kiosk):
    kiosk.start().accept()
    data = list(PICTURES[1].read_bytes())
    dropped = kiosk.page.evaluate_handle(
        """(data) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], "patient-name.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        data,
    )
    kiosk.page.dispatch_event("h1:visible", "dragover", {"dataTransfer": dropped})
    expect(kiosk.page.locator("#drop-now")).to_be_visible()
    kiosk.page.dispatch_event("h1:visible", "drop", {"dataTransfer": dropped})
    expect(kiosk.page.locator("#check-status")).to_have_text(kiosk.text("check.good"))
    assert "patient-name" not in left_in(kiosk.page)


def test_several_answers_are_compared(kiosk):
    kiosk.start().report().button("comparison.start").click()
    status = kiosk.page.locator("#comparison-status")
    expect(status).to_have_text(re.compile(r"\d of 5 answers name the same condition|None of the 5"))
    counts = [int(text.split()[0]) for text in kiosk.page.locator(".bars li > :last-child").all_text_contents()]
    assert sum(counts) == 5
    kiosk.page.locator("summary").click()
    expect(kiosk.page.locator("#sample-list li")).to_have_count(5)
    kiosk.check()


@LANGUAGES
def test_the_receipt_and_the_saved_file_say_what_ran(kiosk):
    kiosk.start().report()
    kiosk.page.locator(".suggestion").first.click()
    expect(kiosk.page.locator("#ask")).to_be_visible()
    expect(kiosk.page.locator(".suggestion").first).to_be_focused()  # not the field, which brings up a keyboard
    with kiosk.page.expect_download() as saved:
        kiosk.button("report.save").click()
    expect(kiosk.page.locator("#saved")).to_contain_text(saved.value.suggested_filename)
    report = json.loads(saved.value.path().read_text())
    assert re.fullmatch(r"skingpt-report-\d{8}-\d{4}\.json", saved.value.suggested_filename)
    assert [turn["question"] for turn in report["turns"]][-1] == "What does this show?"
    kiosk.button("report.receipt").click()
    kiosk.check()
    table = kiosk.page.locator("#receipt-rows").text_content()
    language_model = report["engines"]["language_model"]
    for part in (report["bundle"]["id"], report["image"]["sha256"], f"llama.cpp {language_model['version']}"):
        assert part in table
    kiosk.button("receipt.close").click()


def test_without_files_print_and_save_where_the_service_says_so(kiosk):
    about(kiosk.page, file=False, print=False, save=False)
    kiosk.start().accept()
    assert kiosk.button("photo.choose_file").count() == 0
    kiosk.choose(PICTURES[0]).button("check.get_report").click()
    kiosk.finished()
    expect(kiosk.button("report.receipt")).to_be_visible()
    assert kiosk.button("report.print").count() == kiosk.button("report.save").count() == 0


def test_the_keyboard_alone_is_enough(kiosk):
    page = kiosk.page

    def press(name: str, key: str = "Enter") -> None:
        """Tab to an element, which must be seen to have the focus, and press a key."""
        for _ in range(40):
            found, seen = page.evaluate(FOCUS)
            if found == name:
                assert seen, name
                page.keyboard.press(key)
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{name} cannot be reached")

    kiosk.start()
    press("accept")
    kiosk.shown("photo")
    press("use-camera")
    expect(page.locator("#take")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#use-camera")).to_be_focused()
    with page.expect_file_chooser() as chosen:
        press("choose-file", "Space")
    chosen.value.set_files(PICTURES[2])
    expect(page.locator("#get-report")).to_be_visible()
    press("get-report")
    kiosk.finished()
    press("question", "W")
    page.keyboard.type("hat colour is it?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .answer")).to_have_text(re.compile(r"^It is .*\.$"))
    press("show-receipt")
    expect(page.locator("#receipt")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#receipt")).not_to_be_visible()
    press("finish")
    kiosk.shown("start")


def test_a_screen_reader_hears_whole_sentences(kiosk):
    kiosk.start()
    kiosk.page.evaluate("""() => {
        window.heard = [];
        new MutationObserver((changes) => {
            for (const change of changes) window.heard.push(...[...change.addedNodes].map((one) => one.textContent));
        }).observe(document.getElementById('announcer'), { childList: true });
    }""")
    kiosk.report()
    heard = kiosk.page.evaluate("heard")
    titles = TEXTS["en"]["sections"]
    assert [line for line in heard if line in titles] == list(titles)
    sentences = [line for line in heard if line not in titles]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert " ".join(sentences) == kiosk.words().replace("\n", " ")
    assert (
        kiosk.page.locator("[aria-live], [role=status], [role=log]").filter(has=kiosk.page.locator(".answer")).count()
        == 0
    )


PHONE = {"viewport": {"width": 360, "height": 640}}


@pytest.mark.parametrize(
    "kiosk", [PHONE, {**PHONE, "language": "ja"}, {"viewport": WIDE}], indirect=True, ids=["phone", "ja phone", "wide"]
)
def test_the_layout_holds_at_double_the_size_of_text(kiosk):
    page = kiosk.page
    kiosk.start()
    size = "parseFloat(getComputedStyle(document.querySelector('.lead')).fontSize)"
    before = page.evaluate(size)
    for _ in range(2):
        page.locator("#text-size").click()
    assert page.evaluate(size) == pytest.approx(2 * before)
    kiosk.check()
    kiosk.accept()
    kiosk.check()
    kiosk.button("photo.use_camera").click()
    expect(page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    assert page.evaluate(WIDER) <= 0
    kiosk.choose(MADE / "blurred.png")
    kiosk.button("check.use_anyway").click()
    kiosk.finished()
    kiosk.check()
    kiosk.button("report.receipt").click()
    assert page.evaluate(WIDER) <= 0


def test_japanese_is_shown_in_a_font_for_it(kiosk):
    fonts = subprocess.run(["fc-list", ":lang=ja"], capture_output=True, text=True, check=False).stdout
    if not fonts:
        pytest.skip("needs a font for Japanese, as Debian's fonts-noto-cjk")
    kiosk.language = "ja"
    kiosk.start().choose_language()
    expect(kiosk.page.locator("html")).to_have_attribute("lang", "ja")
    session = kiosk.page.context.new_cdp_session(kiosk.page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    node = session.send("DOM.querySelector", {"nodeId": root, "selector": ".lead"})["nodeId"]
    fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
    assert all(re.search("CJK|Gothic|JP|Mincho", font["familyName"]) for font in fonts), fonts
