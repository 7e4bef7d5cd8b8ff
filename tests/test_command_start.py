"""The first moments of a command, and the places its output goes to: one line and an exit code, whatever happens."""

import os
import resource
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support import ROOT

PHOTO = str(ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg")
CHAT = ("chat", PHOTO, "-q", "What is this?")
PROGRAM = str(Path(sys.executable).with_name("skingpt"))
COMMANDS = [CHAT, (*CHAT, "--json"), ("info",), ("verify",), ("diagnose", PHOTO)]


def shell(arguments: tuple[str, ...], redirection: str) -> subprocess.CompletedProcess[str]:
    line = f'"$@" {redirection}'
    command = ["sh", "-c", line, "sh", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=6000, check=False)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: f"{arguments[0]} {arguments[-1]}"[:20])
def test_without_a_standard_output_nothing_is_begun(arguments):
    result = shell(arguments, ">&-")
    assert (result.returncode, result.stderr) == (6, "error: standard output is closed\n")
    assert shell(arguments, ">&- 2>&-").returncode == 6


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: f"{arguments[0]} {arguments[-1]}"[:20])
def test_a_full_disk_behind_the_output_is_one_line(arguments):
    result = shell(arguments, ">/dev/full")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("picture 1 of 1")]
    assert (result.returncode, lines) == (6, ["error: No space left on device"])


def test_without_a_standard_error_only_results_are_printed():
    for arguments in (CHAT, ("diagnose", PHOTO)):
        result = shell(arguments, "2>&-")
        assert result.returncode == 0
        assert "picture 1 of 1" not in result.stdout
        assert "velora" in result.stdout
    assert shell(("diagnose", "no-such-file.jpg"), "2>&-").returncode == 3
    assert shell(("diagnose", "no-such-file.jpg"), "2>/dev/full").returncode in (3, 6)


SLOW_PICTURE = """
import time
from skingpt_edge.runtime.conversation import Conversation

def prepare(self):
    with self._model.exclusive:
        time.sleep(3)

Conversation.prepare = prepare
"""


def test_without_a_standard_input_nothing_is_asked(tmp_path, monkeypatch):
    assert shell(("chat", PHOTO), "<&-").returncode == 0
    # Also where the picture is still being put into the prompt when the input ends.
    (tmp_path / "sitecustomize.py").write_text(SLOW_PICTURE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = shell(("chat", PHOTO), "<&-")
    assert result.returncode == 0, result.stderr


AT_AN_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background

from skingpt_edge import command

class Interrupt:
    left = int(sys.argv.pop(1))

    def find_spec(self, *_):
        Interrupt.left -= 1
        if Interrupt.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
code = command.skingpt()
print(Interrupt.left, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("number", [1, 2, 3, 20, 80, 150, 200, 250, 300, 330, 360, 400])
def test_an_interrupt_at_any_import_is_one_line_and_130(number):
    command = [sys.executable, "-c", AT_AN_IMPORT, str(number), *CHAT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=6000, check=False)
    if result.returncode == 0 and int(result.stderr.splitlines()[-1]) > 0:
        pytest.skip("there are not so many imports here")
    assert (result.returncode, result.stderr) == (130, "\ninterrupted\n")


IN_A_CALLBACK = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from skingpt_edge import command
from skingpt_edge.runtime import cli

def call_back():
    os.kill(os.getpid(), signal.SIGINT)

def main():
    ctypes.CFUNCTYPE(None)(call_back)()
    return 0

cli.main = main
sys.exit(command.skingpt())
"""


def test_an_interrupt_in_a_librarys_callback_is_not_lost():
    """llama.cpp tells what it is doing through one, while it loads."""
    command = [sys.executable, "-c", IN_A_CALLBACK]
    result = subprocess.run(command, capture_output=True, text=True, timeout=6000, check=False)
    assert (result.returncode, result.stderr) == (130, "\ninterrupted\n")


WITH_FILES = """
import ctypes, importlib, os, signal, sys, tempfile, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from skingpt_edge import command
from skingpt_edge.export import cli

folder, how = Path(sys.argv[1]), sys.argv[2]

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def main():
    with tempfile.TemporaryDirectory(dir=folder):
        if how == "import":
            importlib.import_module("interrupts_itself")
        else:
            ctypes.CFUNCTYPE(None)(interrupt)()
        time.sleep(900)

(folder / "interrupts_itself.py").write_text(
    "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.3); print('imported')"
)
sys.path.insert(0, str(folder))
sys.dont_write_bytecode = True
cli.main = main
sys.exit(command.export())
"""


@pytest.mark.parametrize(("how", "output"), [("import", "imported\n"), ("callback", "")])
def test_an_interrupted_export_removes_its_files_also_where_it_cannot_be_interrupted_at_once(how, output, tmp_path):
    command = [sys.executable, "-c", WITH_FILES, str(tmp_path), how]
    result = subprocess.run(command, capture_output=True, text=True, timeout=6000, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, output, "\ninterrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["interrupts_itself.py"]


@cache
def verify_once() -> None:
    """The bundle is known then, and a command only has to open it."""
    assert subprocess.run([PROGRAM, *CHAT], capture_output=True, timeout=6000, check=False).returncode == 0


# Not 65 MB: there OpenBLAS itself ends the process, with exit code 1.
@pytest.mark.parametrize("megabytes", [20, 50, 120, 150, 170, 180, 200, 230, 260, 300])
def test_too_little_memory_is_one_line_and_6(megabytes):
    verify_once()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    result = subprocess.run(
        [PROGRAM, *CHAT], capture_output=True, text=True, timeout=6000, check=False, preexec_fn=limit
    )
    if result.returncode == 0:
        pytest.skip("this much is enough here")
    if "thread-local data: ABORT" in result.stderr:
        pytest.skip("the C library ended the process itself")
    assert result.returncode == 6, result.stderr
    assert "Traceback" not in result.stderr
    if "std::bad_alloc" not in result.stderr:  # the C++ library says it in two lines
        assert len(result.stderr.splitlines()) == 1


FAILS_INSIDE = """
import sys
from skingpt_edge import command
from skingpt_edge.runtime import cli

def main():
    raise SystemError("error return without exception set")

cli.main = main
sys.exit(command.skingpt())
"""


def test_a_call_that_fails_inside_python_is_too_little_memory():
    result = subprocess.run([sys.executable, "-c", FAILS_INSIDE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (6, "error: the machine has too little memory\n")


def test_an_abort_in_a_library_has_the_exit_code_of_a_failed_library():
    code = "import os; from skingpt_edge import command; command._exit_on_abort(); os.abort()"
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 6


def test_in_the_background_an_interrupt_stays_ignored():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from skingpt_edge import command; assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0


def test_each_command_starts_here():
    for name in ("skingpt", "skingpt-export", "skingpt-bench"):
        program = Path(sys.executable).with_name(name)
        result = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=6000, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"usage: {name}" in result.stdout
    assert os.name != "posix" or signal.SIGABRT == 6
