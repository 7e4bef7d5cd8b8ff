"""Whatever goes wrong, the kiosk page says what happened and what to do, and shows nothing of another person."""

import os
import re
import signal
from contextlib import suppress

import pytest
from kiosk import FAKE_CAMERA, WIDER, Kiosk, about, chromium, launch, left_in, needs_chromium
from playwright.sync_api import expect
from service import PICTURES, RunningService, free_port, until
from support import DATA

pytestmark = needs_chromium
WINDOW = {"viewport": {"width": 540, "height": 960}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), FAKE_CAMERA) as found:
        yield found


@pytest.fixture
def kiosk(browser, service):
    """A window that may use the camera."""
    context = browser.new_context(**WINDOW)
    context.grant_permissions(["camera"], origin=service.url)
    yield Kiosk(context, service)
    context.close()


@pytest.fixture
def paused(service):
    """The model's process stands still, until it goes on or is killed."""
    pid = service.worker()
    os.kill(pid, signal.SIGSTOP)
    yield pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    service.wait_ready()


def test_the_camera_may_not_be_used(browser, service):
    context = browser.new_context(**WINDOW)  # without the permission
    kiosk = Kiosk(context, service).start().accept()
    kiosk.button("photo.use_camera").click()
    kiosk.problem("denied", "camera_problems")
    kiosk.check()
    kiosk.choose(PICTURES[0])  # is what it advises
    expect(kiosk.page.locator("#check-status")).to_have_text(kiosk.text("check.good"))
    context.close()


def test_where_no_files_are_taken_none_is_advised(browser, service):
    context = browser.new_context(**WINDOW)
    kiosk = Kiosk(context, service)
    about(kiosk.page, file=False)
    kiosk.start().accept().button("photo.use_camera").click()
    problem = kiosk.problem("denied", "camera_problems")
    expect(problem).to_contain_text(kiosk.text("camera_problems.staff"))
    assert kiosk.text("camera_problems.denied") not in problem.inner_text()
    context.close()


def test_the_camera_goes_away_while_it_is_on(kiosk):
    kiosk.start().accept().button("photo.use_camera").click()
    expect(kiosk.page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    kiosk.page.context.clear_permissions()  # Chromium ends the camera's track, as when it is pulled out
    problem = kiosk.problem("unplugged", "camera_problems")
    expect(kiosk.page.locator("#camera")).to_be_hidden()
    kiosk.check()
    kiosk.page.context.grant_permissions(["camera"], origin=kiosk.service.url)
    problem.get_by_role("button").click()
    expect(kiosk.page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))


def test_no_camera_and_a_browser_whose_text_is_twice_as_large(browser, service):
    flags = f"{FAKE_CAMERA}=device-count=0", "--blink-settings=defaultFontSize=32"
    with launch(browser.browser_type, *flags) as other:
        context = other.new_context(viewport={"width": 360, "height": 640})
        context.grant_permissions(["camera"], origin=service.url)
        kiosk = Kiosk(context, service).start()
        assert kiosk.page.evaluate("getComputedStyle(document.documentElement).fontSize") == "32px"
        kiosk.check()
        kiosk.accept().button("photo.use_camera").click()
        kiosk.problem("missing", "camera_problems")
        kiosk.check()
        kiosk.choose(PICTURES[0]).button("check.get_report").click()
        kiosk.finished()
        assert kiosk.page.evaluate(WIDER) <= 0


def test_files_that_are_no_photo(kiosk, tmp_path):
    text, large = tmp_path / "notes.txt", tmp_path / "large.jpg"
    text.write_text("no photo")
    large.write_bytes(bytes(20_000_001))
    kiosk.start().accept().choose(text)
    kiosk.problem("kind")
    kiosk.choose(large)
    kiosk.problem("large")
    kiosk.choose(DATA / "photos/made/bad_baseline_cut.jpg")
    kiosk.problem("image")
    kiosk.choose_another(tmp_path / "large.jpg")
    kiosk.problem("large")
    text.rename(tmp_path / "notes.jpg")
    kiosk.choose(tmp_path / "notes.jpg")
    kiosk.problem("image")
    expect(kiosk.page.locator("#check-photo")).to_be_hidden()  # no broken picture
    expect(kiosk.page.locator("#expected")).to_be_empty()
    kiosk.check()
    kiosk.choose_another(PICTURES[0])
    expect(kiosk.button("check.get_report")).to_be_visible()
    assert kiosk.page.locator(".problem:visible").count() == 0


def test_the_model_ends_in_the_middle_of_an_answer(kiosk, service, paused):
    kiosk.start().photo().button("check.get_report").click()
    expect(kiosk.page.locator("#progress-title")).to_have_text(kiosk.text("report.running"))
    kiosk.check()
    kiosk.until(lambda: service.requests_now() == 1)
    os.kill(paused, signal.SIGKILL)
    problem = kiosk.problem("interrupted")
    expect(problem).to_contain_text("worker_ended")
    kiosk.check()
    problem.get_by_role("button", name=kiosk.text("problems.again")).click()
    kiosk.finished()
    assert kiosk.page.locator("#sections article").count() == 4
    # The same for a further question, which stays to be seen.
    os.kill(service.worker(), signal.SIGSTOP)
    kiosk.page.locator(".suggestion").first.click()
    kiosk.until(lambda: service.requests_now() == 1)
    os.kill(service.worker(), signal.SIGKILL)
    problem = kiosk.problem("interrupted")
    expect(kiosk.page.locator(".turn")).to_contain_text(kiosk.text("questions.failed"))
    problem.get_by_role("button").click()
    expect(kiosk.page.locator("#ask")).to_be_visible()
    expect(kiosk.page.locator(".turn .answer")).to_have_text(re.compile(r"\.$"))


def test_a_question_that_is_too_long_can_be_made_shorter(kiosk):
    kiosk.start().report()
    kiosk.page.fill("#question", "Why? " * 700)
    kiosk.button("questions.ask").click()
    assert kiosk.problem("question").get_by_role("button").count() == 0  # it would be too long again
    assert kiosk.page.input_value("#question").startswith("Why? Why?")
    kiosk.check()


def test_an_answer_that_is_slow_says_so_and_can_be_stopped(kiosk, paused):
    about(kiosk.page, report_seconds=0.1, idle_seconds=20)  # and meanwhile nobody counts as away
    kiosk.page.clock.install()
    kiosk.start().photo().button("check.get_report").click()
    expect(kiosk.page.locator("#stop")).to_be_visible()
    kiosk.page.clock.fast_forward(8_000)
    expect(kiosk.page.locator("#progress-left")).to_have_text(kiosk.text("report.longer"))
    kiosk.page.clock.fast_forward(15_000)
    assert kiosk.page.get_by_role("alertdialog").count() == 0
    kiosk.button("report.stop").click()
    expect(kiosk.page.locator("#progress-title")).to_have_text(kiosk.text("report.stopped_empty"))
    assert kiosk.page.evaluate("document.activeElement.id") == "report-title"
    expect(kiosk.button("report.print")).to_be_disabled()
    kiosk.check()
    os.kill(paused, signal.SIGCONT)
    kiosk.button("report.again").click()
    kiosk.finished()


def test_a_service_that_falls_silent_is_given_up(kiosk, paused):
    kiosk.page.clock.install()
    kiosk.start().photo().button("check.get_report").click()
    expect(kiosk.page.locator(".stages .now")).to_contain_text(kiosk.text("report.stage_look"))
    kiosk.page.clock.fast_forward(31_000)  # the service says something every 10 seconds
    kiosk.problem("lost")


@pytest.mark.parametrize("way", ["reload", "go away and come back", "close"])
def test_a_page_that_is_left_leaves_nothing(kiosk, service, way, paused):
    page = kiosk.page
    page.goto("about:blank")
    kiosk.start().photo()
    conversation, photo = kiosk.conversation(), page.locator("#check-photo").get_attribute("src")
    kiosk.button("check.get_report").click()
    expect(page.locator("#stop")).to_be_visible()
    if way == "close":
        page.close()
    elif way == "reload":
        page.reload()
    else:
        page.goto("about:blank")
        page.go_back()
    if way != "close":
        kiosk.shown("start")  # by itself: a kiosk has no keyboard
        # The conversation's number stays until the service has said that it is deleted.
        kiosk.until(lambda: conversation not in left_in(page))
        assert photo not in left_in(page) and "#" not in page.url
        expect(page.locator(".problem:visible")).to_have_count(0)
    until(lambda: service.request("POST", f"/v1/conversations/{conversation}/report")[0] == 404)


def test_a_page_that_the_browser_kept_shows_nothing_when_it_comes_back(kiosk):
    """Playwright switches the browser's keeping of pages off, so what it tells the page is said by hand."""
    kiosk.start().report()
    conversation = kiosk.conversation()
    kiosk.page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    kiosk.shown("start")
    for place in ("sections", "announcer", "suggestions"):
        assert kiosk.page.locator(f"#{place}").text_content() == "", place
    assert kiosk.page.locator("#report-photo").get_attribute("src") is None
    expect(kiosk.page.locator("#wiped")).to_be_hidden()
    kiosk.until(lambda: conversation not in left_in(kiosk.page))  # the service has said that it is deleted


def held(page, address: str) -> list:
    """The requests to this address, which are not passed on."""
    found: list = []
    page.route(address, lambda route: found.append(route))  # noqa: PLW0108 - Playwright marks what it is given
    return found


def test_what_went_wrong_with_one_photo_is_not_said_of_the_next_persons(kiosk):
    first: list = []
    kiosk.page.route("**/v1/conversations", lambda route: route.continue_() if first else first.append(route))
    kiosk.start().accept().choose(PICTURES[1])
    expect(kiosk.page.locator("#check-status")).to_have_text(kiosk.text("check.checking"))
    kiosk.button("header.start_over").click()
    kiosk.photo()
    kiosk.until(lambda: first)
    first[0].fulfill(status=422, content_type="application/problem+json", body='{"code": "image_unusable"}')
    kiosk.page.wait_for_timeout(300)
    expect(kiosk.page.locator("#check-status")).to_have_text(kiosk.text("check.good"))
    expect(kiosk.page.locator(".problem:visible")).to_have_count(0)


def test_a_photo_that_is_still_being_taken_goes_with_its_person(kiosk):
    slow = "const made = HTMLCanvasElement.prototype.toBlob; HTMLCanvasElement.prototype.toBlob = function (...given) {"
    kiosk.page.add_init_script(f"{slow} window.goOn = () => made.apply(this, given); }}")
    kiosk.start().accept().button("photo.use_camera").click()
    expect(kiosk.page.locator("#camera-status")).to_have_text(kiosk.text("photo.camera_live"))
    kiosk.button("photo.take").click()
    kiosk.until(lambda: kiosk.page.evaluate("window.goOn !== undefined"))
    kiosk.button("header.start_over").click()
    kiosk.shown("start")
    kiosk.page.evaluate("window.goOn()")
    kiosk.page.wait_for_timeout(500)
    kiosk.shown("start")
    assert kiosk.page.evaluate("sessionStorage.getItem('conversations')") is None


def test_a_file_that_is_chosen_after_its_person_has_gone_is_not_taken(kiosk):
    kiosk.start().accept().button("header.start_over").click()
    kiosk.choose(PICTURES[0])
    kiosk.page.wait_for_timeout(300)
    kiosk.shown("start")


def test_another_photo_leaves_nothing_of_the_report(kiosk):
    kiosk.start().report()
    kiosk.button("report.other_photo").click()
    kiosk.button("sure.delete").click()
    kiosk.shown("photo")
    for place in ("sections", "announcer", "talk", "made", "report-notes"):
        assert kiosk.page.locator(f"#{place}").text_content() == "", place
    assert kiosk.page.locator("#report-photo").get_attribute("src") is None


def test_a_report_that_is_not_complete_says_so_on_paper(kiosk):
    data = '{"number": 0, "section": "Cause", "text": "It comes from"}'
    kiosk.page.route(
        "**/report",
        lambda route: route.fulfill(content_type="text/event-stream", body=f"event: text\ndata: {data}\n\n"),
    )
    kiosk.start().photo().button("check.get_report").click()
    kiosk.problem("lost")
    kiosk.page.emulate_media(media="print")
    expect(kiosk.page.locator("#made")).to_be_visible()
    expect(kiosk.page.locator("#made")).to_have_text(kiosk.text("report.broken"))


def test_a_service_that_says_nothing_at_all_is_given_up(kiosk):
    held(kiosk.page, "**/report")
    kiosk.page.clock.install()
    kiosk.start().photo().button("check.get_report").click()
    expect(kiosk.page.locator("#stop")).to_be_visible()
    kiosk.page.clock.fast_forward(91_000)
    kiosk.problem("lost")


def test_sending_the_photo_again_can_be_stopped(kiosk, service):
    kiosk.start().photo()
    service.request("DELETE", f"/v1/conversations/{kiosk.conversation()}")
    again = held(kiosk.page, "**/v1/conversations")
    kiosk.button("check.get_report").click()
    expect(kiosk.page.locator("#stop")).to_be_visible()
    kiosk.until(lambda: again)
    kiosk.button("report.stop").click()
    expect(kiosk.page.locator("#progress-title")).to_have_text(kiosk.text("report.stopped_empty"))


def test_a_service_that_is_not_ready_is_said_to_whoever_wants_to_begin(kiosk):
    kiosk.start()
    first = held(kiosk.page, "**/about")
    kiosk.button("start.accept").click()
    kiosk.shown("wait")
    expect(kiosk.page.locator("#wait-text")).to_have_text(kiosk.text("wait.loading"))
    kiosk.until(lambda: first)
    first[0].continue_()
    kiosk.shown("photo")


def test_a_conversation_that_could_not_be_deleted_is_deleted_before_the_next_person(kiosk):
    kiosk.start().photo()
    refused: list = []
    kiosk.page.route("**/v1/conversations/*", lambda route: refused.append(route.abort()))
    kiosk.button("header.start_over").click()
    kiosk.shown("start")
    kiosk.until(lambda: refused)
    kiosk.page.unroute("**/v1/conversations/*")
    with kiosk.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        kiosk.button("start.accept").click()


def test_a_conversation_that_could_not_be_deleted_is_deleted_later(kiosk, service):
    kiosk.start().photo()
    conversation = kiosk.conversation()
    refused: list = []
    kiosk.page.route("**/v1/conversations/*", lambda route: refused.append(route.abort()))
    kiosk.button("header.start_over").click()
    kiosk.shown("start")
    kiosk.until(lambda: refused)
    assert kiosk.conversation() == conversation
    kiosk.page.unroute("**/v1/conversations/*")
    with kiosk.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        kiosk.page.reload()
    kiosk.shown("start")
    assert service.request("POST", f"/v1/conversations/{conversation}/report")[0] == 404


def test_a_conversation_that_the_service_has_wiped_is_begun_anew(kiosk, service):
    kiosk.start().photo()
    assert service.request("DELETE", f"/v1/conversations/{kiosk.conversation()}")[0] == 204
    kiosk.button("check.get_report").click()
    kiosk.finished()
    assert service.request("DELETE", f"/v1/conversations/{kiosk.conversation()}")[0] == 204
    kiosk.page.locator(".suggestion").nth(1).click()
    expect(kiosk.page.locator(".turn .answer")).to_have_text(re.compile(r"^The border is .*\.$"))
    assert kiosk.page.locator(".problem:visible").count() == 0


def test_the_service_is_lost_and_comes_back(browser, tmp_path):
    port = free_port()
    first = RunningService(tmp_path, "--port", str(port), XDG_CACHE_HOME=str(tmp_path / "cache"))
    first.port = port
    context = browser.new_context(**WINDOW)
    try:
        kiosk = Kiosk(context, first.wait_ready()).start().photo()
        first.process.kill()
        first.process.wait()
        kiosk.button("check.get_report").click()
        problem = kiosk.problem("lost")
        kiosk.check()
        problem.get_by_role("button").click()
        kiosk.problem("lost")
        second = RunningService(tmp_path, "--port", str(port), XDG_CACHE_HOME=str(tmp_path / "cache"))
        second.port = port
        second.wait_ready()
        kiosk.problem("lost").get_by_role("button").click()
        kiosk.finished()  # one press is enough
        # Between two persons.
        kiosk.button("report.finish").click()
        second.stop()
        kiosk.button("start.accept").click()
        expect(kiosk.page.locator("#wait-text")).to_have_text(kiosk.text("wait.lost"))
        kiosk.check()
        second = RunningService(tmp_path, "--port", str(port), XDG_CACHE_HOME=str(tmp_path / "cache"))
        second.port = port
        kiosk.shown("photo")  # by itself
    finally:
        context.close()
        for process in (first.process, second.process):
            process.kill()
            process.wait()


def test_without_a_key_or_with_a_wrong_one_nothing_can_be_done(browser, service):
    for address in ("", "#token=" + "x" * 40):
        context = browser.new_context(**WINDOW)
        kiosk = Kiosk(context, service)
        kiosk.page.goto(f"{service.url}/kiosk/{address}")
        expect(kiosk.page.locator("#wait-title")).to_have_text(kiosk.text("wait.key_title"))
        assert kiosk.page.url == f"{service.url}/kiosk/"
        kiosk.check()
        assert kiosk.page.locator("main button:visible").count() == 0
        context.close()


def test_the_question_whether_somebody_is_there(kiosk):
    page, dialog = kiosk.page, kiosk.page.get_by_role("alertdialog")
    page.clock.install()
    kiosk.start().photo()
    page.clock.fast_forward(45_000)
    page.mouse.move(100, 100)
    page.clock.fast_forward(45_000)
    expect(dialog).to_be_hidden()
    page.clock.fast_forward(16_000)
    expect(dialog).to_be_visible()
    page.mouse.click(5, 5)  # touching anywhere else is no answer
    page.clock.fast_forward(5_000)
    expect(dialog).to_be_visible()
    kiosk.button("idle.stay").click()
    expect(dialog).to_be_hidden()
    # A screen that is touched again and again asks all the same.
    for _ in range(12):
        page.clock.fast_forward(51_000)
        page.mouse.click(5, 5)
    expect(dialog).to_be_visible()
    kiosk.button("idle.leave").click()
    kiosk.shown("start")
    # After the machine has slept, nothing is asked.
    kiosk.photo()
    page.clock.fast_forward(3_600_000)
    kiosk.shown("start")
