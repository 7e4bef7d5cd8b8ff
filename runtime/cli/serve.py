"""`skingpt serve`: a service for other programs on this machine."""

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle import default_bundle, read_bundle
from ..options import Options
from ..printable import one_line
from ..resolving import resolve
from ..serve.check import find_problems
from ..serve.notify import notify
from ..serve.settings import KIOSK_OFFERS, MAX_SESSIONS, PORT, STOP_SIGNALS, Settings
from ..serve.token_file import default_token_file
from ..tuning import measured_speed
from .arguments import BUNDLE_HELP, UsageError, add_setup, bundle_folder, file_path, parse_setup
from .terminal import show_hashing

HELP = "answer other programs on this machine, over HTTP"
CONVERSATIONS = 4
HASH_SECONDS, SELF_TEST_SECONDS = 60, 900  # that systemd is asked to wait for a block of a file, and for the test


@dataclass(frozen=True)
class Arguments:
    settings: Settings
    options: Options
    check: bool


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", type=bundle_folder, metavar="BUNDLE", help=BUNDLE_HELP)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--port", type=int, default=PORT, metavar="N", help="listen at this port of 127.0.0.1 (default: %(default)s)"
    )
    where.add_argument(
        "--socket", type=file_path, metavar="PATH", help="listen at a Unix socket instead, which you alone can use"
    )
    parser.add_argument(
        "--token-file",
        type=file_path,
        metavar="FILE",
        help="where the token is, or will be made (default: ~/.local/state/skingpt-edge/token)",
    )
    parser.add_argument(
        "--check", action="store_true", help="say all that would keep it from starting, and do not start"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check all files of the bundle first, also if that was done before"
    )
    parser.add_argument(
        "--conversations", type=int, default=CONVERSATIONS, metavar="N",
        help="questions that are answered at the same time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--queue", type=int, default=Settings.queue, metavar="N",
        help="requests that may wait beside these (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--idle-minutes", type=float, default=Settings.idle_seconds / 60, metavar="M",
        help="wipe a conversation that was not used for this long, in minutes (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--answer-seconds", type=float, default=Settings.answer_seconds, metavar="S",
        help="longest time of one answer, in seconds (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--hang-seconds", type=float, default=Settings.hang_seconds, metavar="S",
        help="start the model's process again after this many seconds without a sign of life (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--growth-mb", type=float, default=Settings.growth_bytes / 1e6, metavar="MB",
        help="start the model's process again when it has grown by this much, in MB (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--kiosk-idle", type=float, default=Settings.kiosk_idle_seconds, metavar="S",
        help="seconds without a touch after which the kiosk page asks whether anybody is there (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--kiosk-without", nargs="+", choices=KIOSK_OFFERS, default=[], help="leave these out of the kiosk page"
    )
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="answer one question after the other, each computed alone",
    )
    add_setup(parser)


def parse(given: Namespace) -> Arguments:
    _check_ranges(given)
    options = parse_setup(given, conversations=given.conversations, huge_pages=True, image_cache=MAX_SESSIONS)
    token_file = given.token_file or default_token_file()
    settings = Settings(
        bundle=str((given.bundle or default_bundle()).absolute()),
        options=options.to_json(),
        verify=given.verify,
        together=not given.reproducible,
        port=given.port,
        socket=str(given.socket.absolute()) if given.socket else None,
        token_file=str(token_file.absolute()),
        queue=given.queue,
        idle_seconds=given.idle_minutes * 60,
        answer_seconds=given.answer_seconds,
        hang_seconds=given.hang_seconds,
        growth_bytes=int(given.growth_mb * 1e6),
        kiosk_idle_seconds=given.kiosk_idle,
        kiosk_without=given.kiosk_without,
    )
    return Arguments(settings, options, given.check)


def _check_ranges(given: Namespace) -> None:
    ranges = {
        "port": (0, 65535), "queue": (0, 1000), "idle_minutes": (0.05, 1440), "answer_seconds": (1, 86400),
        "hang_seconds": (2, 3600), "growth_mb": (1, 1e6), "kiosk_idle": (10, 3600),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(given, name)
        if not low <= value <= high:
            raise UsageError(f"--{name.replace('_', '-')} is {value:g}, expected {low:g} to {high:g}")


def run(arguments: Arguments) -> int:
    if code := _check(arguments):
        return code
    if arguments.check:
        print("nothing is wrong")
        return 0
    settings = replace(arguments.settings, report_seconds=_report_seconds(arguments))
    sys.stdout.flush()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until the server has loaded a bundle
    # Until the server has its handlers, these signals wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # The server starts afresh in this process: without the image decoders that this command has loaded.
    command = [sys.executable, "-P", "-m", "skingpt_edge.runtime.serve", settings.to_json()]
    return os.execv(sys.executable, command)  # noqa: S606


def _check(arguments: Arguments) -> int:
    """Print everything that is wrong, one line each; the exit code of the first."""
    found = list(find_problems(arguments.settings, arguments.options, _progress))
    for error in found:
        print(f"error: {one_line(str(error))}", file=sys.stderr, flush=True)
    return found[0].exit_code if found else 0


def _report_seconds(arguments: Arguments) -> float | None:
    """How long a report will take, if `skingpt tune` has measured this setup."""
    bundle = read_bundle(Path(arguments.settings.bundle))
    setup = resolve(bundle, arguments.options)
    speed = measured_speed(bundle, setup)
    return len(bundle.manifest.questions) * speed.answer if speed else None


def _progress(name: str, done: int, total: int) -> None:
    """Of a bundle that is checked for the first time: for a person, and so that systemd waits."""
    show_hashing(name, done, total)
    notify(f"EXTEND_TIMEOUT_USEC={SELF_TEST_SECONDS if name == 'self-test' else HASH_SECONDS}000000")
