"""`skingpt`: ask about pictures of skin on this machine.

Exit codes: 0 done, 2 usage, 3 a picture or question cannot be used, 4 the bundle, 6 an engine failed.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ..engines.errors import EngineError, InputError, SkinGPTError
from ..engines.llama_cpp_model import DEVICES
from . import commands
from .manifest import Question
from .options import RANGES
from .sampling import GenerationConfig
from .skingpt import MAX_SAMPLES
from .text import one_line

Number = TypeVar("Number", int, float)
INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter still shows the rest
    try:
        if hasattr(options, "temperature"):
            _check(options)
        code: int = options.run(options)
        sys.stdout.flush()
    except UsageError as error:
        parser.error(str(error))
    except SkinGPTError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # for instance a full disk behind a redirected output
        print(f"error: {error.strerror or error}", file=sys.stderr)
        return EngineError.exit_code
    except MemoryError:
        print("error: the machine has too little memory for this bundle", file=sys.stderr)
        return EngineError.exit_code
    return code


class UsageError(Exception):
    """An option has a value that it cannot have."""


def _check(options: argparse.Namespace) -> None:
    try:
        options.config = lambda defaults: GenerationConfig(
            max_new_tokens=_chosen(options.max_new_tokens, defaults.max_new_tokens),
            temperature=_chosen(options.temperature, defaults.temperature),
            top_p=_chosen(options.top_p, defaults.top_p),
            seed=options.seed,
            ignore_stop=options.ignore_stop,
        )
        options.config(GenerationConfig())
    except InputError as error:
        raise UsageError(str(error)) from None
    for name in ("threads", "context", "gpu_layers"):
        value, (low, high) = getattr(options, name), RANGES[name]
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name.replace('_', '-')} is {value}, expected {low} to {high}")
    if options.gpu_layers is not None and options.device == "cpu":
        raise UsageError("--gpu-layers needs --device cuda")
    html: Path | None = getattr(options, "html", None)
    if html and not html.absolute().parent.is_dir():
        raise UsageError(f"--html: there is no folder {html.absolute().parent}")
    if html and (html.is_symlink() or (html.exists() and not html.is_file())):
        raise UsageError(f"--html: {html} is not a regular file, and would be replaced by one")
    samples = getattr(options, "samples", None)
    if samples is not None and not 1 <= samples <= MAX_SAMPLES:
        raise UsageError(f"--samples is {samples}, expected 1 to {MAX_SAMPLES}")
    if samples and html:
        raise UsageError("--samples and --html do not go together: there is no page of samples")
    if not samples and (getattr(options, "conditions", None) or getattr(options, "reproducible", False)):
        raise UsageError("--conditions and --reproducible need --samples")
    if options.top_p is not None and not options.temperature and not samples:
        raise UsageError("--top-p has no effect without --temperature")
    if getattr(options, "questions", None):
        options.questions = read_questions(options.questions)


def _chosen(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def read_questions(path: Path) -> tuple[Question, ...]:
    """Questions from a text file, one a line; blank lines and lines that begin with # are left out."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--questions: {path} cannot be read: {error}") from None
    questions = [line for line in lines if line and not line.startswith("#")]
    if not questions:
        raise UsageError(f"--questions: {path} holds no question")
    return tuple(Question(f"Question {i}", question) for i, question in enumerate(questions, 1))


def memory_size(text: str) -> int:
    """Bytes from a text such as `8GB`, `6.5 GB` or `900MB`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MG])B?\s*", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 8GB or 900MB")
    return int(float(found[1]) * {"M": 1e6, "G": 1e9}[found[2].upper()])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skingpt", description="Ask about pictures of skin, on this machine and nowhere else."
    )
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    model, generation = _model_options(), _generation_options()

    diagnose = sub.add_parser(
        "diagnose", parents=[model, generation], help="the clinical protocol's questions about each picture"
    )
    diagnose.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or WebP")
    diagnose.add_argument("--questions", type=Path, metavar="FILE", help="other questions, one a line")
    diagnose.add_argument("--json", action="store_true", help="one JSON document a picture, a line each")
    diagnose.add_argument("--html", type=Path, metavar="FILE", help="also write a page with pictures and reports")
    diagnose.add_argument(
        "--samples", type=int, metavar="N", help="N sampled answers to the first question: do they agree?"
    )
    diagnose.add_argument(
        "--conditions", type=Path, metavar="FILE", help="with --samples: names of conditions, one a line"
    )
    diagnose.add_argument(
        "--reproducible", action="store_true", help="with --samples: one after the other, not together"
    )
    diagnose.set_defaults(run=commands.diagnose)

    chat = sub.add_parser("chat", parents=[model, generation], help="questions and follow-ups about one picture")
    chat.add_argument("image", type=Path, metavar="IMAGE")
    chat.add_argument("-q", dest="asked", action="append", metavar="QUESTION", help="ask this; may be repeated")
    chat.add_argument("--json", action="store_true", help="one JSON document at the end; needs -q")
    chat.set_defaults(run=commands.chat)

    trace = sub.add_parser("trace", parents=[model, generation], help="every stage as arrays, for comparing engines")
    trace.add_argument("image", type=Path, metavar="IMAGE")
    trace.add_argument("-q", dest="asked", action="append", required=True, metavar="QUESTION")
    trace.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR")
    trace.set_defaults(run=commands.trace)

    tune = sub.add_parser("tune", help="measure what is fastest on this machine, and remember it")
    tune.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="(the demonstration bundle)")
    tune.add_argument("--max-memory", type=memory_size, metavar="SIZE", help="at most so much memory, such as 8GB")
    tune.add_argument("--json", action="store_true")
    tune.set_defaults(run=commands.tune)

    for name, run, text in (
        ("info", commands.info, "what a bundle is and what would run it"),
        ("verify", commands.verify, "check every byte of a bundle and that its parts fit"),
    ):
        command = sub.add_parser(name, help=text)
        command.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="(the demonstration bundle)")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)
    return parser


def _model_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--bundle", type=Path, metavar="BUNDLE", help="(the demonstration bundle)")
    options.add_argument("--verify", action="store_true", help="hash all files of the bundle first")
    options.add_argument("--device", choices=DEVICES, default="cpu", help="of the whole model (%(default)s)")
    options.add_argument("--vision-device", choices=DEVICES, help="of vision alone, if another")
    options.add_argument("--gpu-layers", type=int, metavar="N", help="layers of the language model on the GPU (all)")
    options.add_argument("--no-tuning", action="store_true", help="ignore what `skingpt tune` has measured")
    options.add_argument("--no-image-cache", action="store_true", help="encode every picture, also one seen before")
    options.add_argument("--threads", type=int, metavar="N", help="(the physical cores)")
    options.add_argument("--context", type=int, metavar="N", help="tokens of context (the bundle's)")
    return options


def _generation_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (the bundle's)")
    options.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (the bundle's)")
    options.add_argument("--top-p", type=float, metavar="P", help="with a temperature: nucleus sampling")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (%(default)s)")
    options.add_argument("--ignore-stop", action="store_true", help="generate past stop strings; for comparing")
    return options


if __name__ == "__main__":
    sys.exit(main())
