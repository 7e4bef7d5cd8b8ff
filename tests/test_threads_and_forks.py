"""One model, several threads and processes: a right answer or a typed error, never a wrong word or a crash."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from skingpt_edge.engines.exclusive import Exclusive
from skingpt_edge.runtime import EngineError, GenerationConfig, Options, SkinGPT
from support import ROOT

PICTURES = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[:2]
QUESTION, SHORT = "What is this?", GenerationConfig(max_new_tokens=8)


@pytest.fixture
def model():
    with SkinGPT.open(options=Options(threads=1, conversations=2)) as model:
        yield model


@pytest.fixture
def image(model):
    return model.embed(PICTURES[0].read_bytes())


def in_thread(do):
    """What `do` returns, or the error it raises, in a thread of its own."""
    found = []

    def run():
        try:
            found.append(do())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(300)
    assert found, "the thread hangs"
    return found[0]


def python(code: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_random_interleavings_give_right_answers_or_typed_errors():
    """1,000 of them: python tests/interleavings.py --rounds 1000 --seed 1."""
    script = Path(__file__).with_name("interleavings.py")
    command = [sys.executable, str(script), "--rounds", "100", "--seed", "7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = json.loads(result.stdout)["outcomes"]
    assert outcomes["answers"] > 50
    assert outcomes["children"] > 5
    for error in ("in use by another thread", "is closed", "another answer was begun"):
        assert any(error in outcome for outcome in outcomes), error


def test_who_asks_while_another_thread_computes_gets_an_error_and_changes_nothing(model, image):
    expected = model.ask(image, QUESTION, SHORT).token_ids
    other = PICTURES[1].read_bytes()
    beside = []

    def ask_beside(_):
        if not beside:
            for do in (
                lambda: model.ask(image, "Why?", SHORT),
                lambda: model.first_logits(image, "Why?"),
                model.scheduler,
                lambda: model.engines,
                lambda: model.embed(other).name,
            ):
                beside.append(in_thread(do))

    scheduler, conversation = model.scheduler(), model.conversation(image)
    scheduler.add(conversation.job(QUESTION, SHORT, on_text=ask_beside))
    scheduler.run()
    assert conversation.answers[0].token_ids == expected
    assert [type(found) for found in beside] == [EngineError] * 4 + [str]  # encoding a picture disturbs nobody
    assert all("in use by another thread" in str(error) for error in beside[:4])


def test_an_answer_is_one_threads_from_its_first_token_to_its_last(model, image):
    """Not only during a call of llama.cpp: in between, another answer could take its place."""
    with model.conversation(image)._model.exclusive:
        assert "in use by another thread" in str(in_thread(lambda: model.ask(image, QUESTION, SHORT)))
    conversation = model.conversation(image)
    depths = []
    stream = conversation.stream
    conversation.stream = lambda *a, **k: (depths.append(model._model.exclusive._depth) or p for p in stream(*a, **k))
    conversation.ask(QUESTION, SHORT)
    assert set(depths) == {1}


def test_a_stream_may_go_from_thread_to_thread(model, image):
    expected = model.ask(image, QUESTION, SHORT).text
    stream = model.stream(image, QUESTION, SHORT)
    pieces = []
    while (piece := in_thread(lambda: next(stream, None))) is not None:
        pieces.append(piece)
    assert "".join(pieces) == expected
    assert len(pieces) > 2


def test_a_stream_given_up_while_another_thread_computes_gives_its_place_back(model, image):
    cache = model._cache
    expected = model.ask(image, "What colour is it?", SHORT).text
    given_up, kept = (model.stream(image, question, SHORT) for question in (QUESTION, "What colour is it?"))
    begun = [next(kept)]  # the older one, which would have to make room
    next(given_up)
    assert len(cache._owners) == 2
    with model._model.exclusive:
        assert in_thread(given_up.close) is None
    model.ask(image, "Why?", SHORT)
    assert "".join([*begun, *kept]) == expected


def test_a_job_can_be_cancelled_by_another_thread_while_one_runs(model, image):
    config = GenerationConfig(max_new_tokens=30)
    expected = model.ask(image, QUESTION, config).token_ids
    scheduler = model.scheduler()
    first, second = model.conversation(image), model.conversation(image)
    long = second.job("word " * 200, SHORT)
    tickets = []

    def cancel_beside(_):
        if tickets:
            in_thread(lambda: scheduler.cancel(tickets[0]))
        else:
            tickets.append(scheduler.add(long))

    scheduler.add(first.job(QUESTION, config, on_text=cancel_beside))
    while not tickets or not tickets[0].cancelled:
        scheduler.step()
    assert not tickets[0].finished  # the other thread must not end it in the middle of a call
    scheduler.step()
    assert (tickets[0].finished, tickets[0].result) == (True, None)  # and not after its whole prompt
    scheduler.run()
    assert second.answers == []
    assert first.answers[0].token_ids == expected


def test_close_waits_for_the_call_another_thread_is_in_and_that_answer_ends_with_an_error(model, image):
    closers = []

    def close_beside(_):
        if not closers:
            closers.append(threading.Thread(target=model.close))
            closers[0].start()
            while not model._model.exclusive._closed:
                pass

    scheduler = model.scheduler()
    ticket = scheduler.add(model.conversation(image).job(QUESTION, SHORT, on_text=close_beside))
    with pytest.raises(EngineError, match="the model is closed"):
        scheduler.run()
    closers[0].join(300)
    assert not closers[0].is_alive()
    assert ticket.result is None
    assert not model._model.exclusive._free.alive


def test_close_in_the_middle_of_an_own_answer_frees_the_memory_on_leaving(model, image):
    alive = []

    def close(_):
        model.close()
        alive.append(model._model.exclusive._free.alive)

    scheduler = model.scheduler()
    scheduler.add(model.conversation(image).job(QUESTION, SHORT, on_text=close))
    with pytest.raises(EngineError, match="the model is closed"):
        scheduler.run()
    assert alive == [True]
    assert not model._model.exclusive._free.alive
    model.close()


def test_a_closed_model_is_an_error_everywhere(model, image):
    stream = model.stream(image, QUESTION, SHORT)
    next(stream)
    conversation = model.conversation(image)
    model.close()
    model.close()
    for do in (
        lambda: model.embed(PICTURES[0].read_bytes()),  # in the cache of pictures or not
        lambda: model.ask(image, QUESTION, SHORT),
        lambda: conversation.ask(QUESTION, SHORT),
        lambda: next(stream),
        lambda: next(model.stream(image, QUESTION)),
        lambda: model.samples(image, QUESTION, GenerationConfig(4, 1.0), 2),
        lambda: model.report(image),
        lambda: model.first_logits(image, QUESTION),
        model.scheduler,
        lambda: model.engines,
    ):
        with pytest.raises(EngineError, match="the model is closed"):
            do()


def test_memory_is_freed_once_and_never_while_somebody_is_inside():
    freed = []
    exclusive = Exclusive(lambda: freed.append(1))
    with exclusive, exclusive:
        exclusive.close()
        assert not freed
        with pytest.raises(EngineError, match="closed"), exclusive:
            pass
    assert freed == [1]
    with pytest.raises(EngineError, match="closed"), exclusive:
        pass


IN_A_CHILD = """
import os, signal, sys, time
from pathlib import Path
from skingpt_edge.runtime import EngineError, GenerationConfig, Options, SkinGPT

data, short = Path(sys.argv[1]).read_bytes(), GenerationConfig(max_new_tokens=4)
with SkinGPT.open(options=Options(threads=2)) as model:
    image = model.embed(data)
    expected = model.ask(image, "What is this?", short).text
    begun = model.stream(image, "What is this?", short)
    next(begun)
    child = os.fork()
    if not child:
        signal.alarm(300)
        uses = (
            lambda: model.embed(data), lambda: model.embed(b"another"), lambda: model.ask(image, "Why?", short),
            lambda: next(begun), lambda: model.report(image), lambda: model.engines, model.scheduler,
            lambda: model.first_logits(image, "Why?"),
        )
        for use in uses:
            try:
                use()
            except EngineError as error:
                assert "before this process was forked" in str(error), error
            else:
                sys.exit("no error")
        {leave}
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    rest = "".join(begun)
    assert model.ask(image, "What is this?", short).text == expected
print("right")
"""


@pytest.mark.parametrize(
    "leave",
    [
        "os._exit(0)",
        "sys.exit(0)",  # through `with`, and the interpreter's end
        "model.close(); del model, uses, begun; sys.exit(0)",
        "del use, uses, begun; model = None; sys.exit(0)",  # dropped, not closed
    ],
)
def test_a_forked_child_gets_an_error_at_once_and_the_parent_goes_on(leave):
    result = python(IN_A_CHILD.replace("{leave}", leave), str(PICTURES[0]))
    assert (result.stdout, result.stderr, result.returncode) == ("right\n", "", 0)


def test_a_model_that_is_dropped_unclosed_is_freed():
    code = """
import gc, re
from pathlib import Path
from skingpt_edge.runtime import Options, SkinGPT

def used():
    gc.collect()
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def open_and_drop(times):
    for _ in range(times):
        SkinGPT.open(options=Options(threads=1))

open_and_drop(3)
before = used()
open_and_drop(10)
print(used() - before)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 40_000  # kB; ten that stay take 140,000


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "model.close()",
        "stream = model.stream(image, 'What?'); next(stream)",
        "threading.Thread(target=lambda: [model.ask(image, 'What?') for _ in range(99)], daemon=True).start()\n"
        "time.sleep(0.3)",
    ],
    ids=["unclosed", "closed", "in the middle of an answer", "while a daemon thread computes"],
)
def test_the_interpreter_ends_well_with_an_open_model(ending):
    code = (
        "import sys, threading, time\nfrom pathlib import Path\nfrom skingpt_edge.runtime import Options, SkinGPT\n"
        "model = SkinGPT.open(options=Options(threads=2))\n"
        f"image = model.embed(Path(sys.argv[1]).read_bytes())\n{ending}"
    )
    result = python(code, str(PICTURES[0]))
    assert (result.returncode, result.stderr) == (0, "")


def test_pictures_are_encoded_right_by_several_threads_at_once():
    with SkinGPT.open(options=Options(threads=1, image_cache=1)) as model:
        data = [path.read_bytes() for path in PICTURES]
        expected = [model.embed(one).embeds.tobytes() for one in data]
        wrong = []

        def encode():
            for i in range(30):
                if model.embed(data[i % 2]).embeds.tobytes() != expected[i % 2]:
                    wrong.append(i)

        assert [in_threads(encode, 4), wrong] == [[None] * 4, []]


def in_threads(do, count):
    found = [None] * count

    def run(number):
        try:
            do()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    return found
