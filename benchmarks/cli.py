"""`skingpt-bench`: how fast a bundle is on this machine, how much memory it takes, and what limits it.

Exit codes: 0 done, 2 usage, 3 results that cannot be used, 4 the bundle, 6 an engine failed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engines.errors import InputError, SkinGPTError
from ..runtime.cli.arguments import UsageError, add_setup, name_flag, parse_setup, sentence
from ..runtime.cli.output_paths import check_output
from ..runtime.options import Options
from .measure.run_suite import BASELINES, run_suite
from .measure.suites import SUITES
from .report.compare import compare
from .report.write_report import write_report

RESULTS_BEGIN = b'{\n "schema": "skingpt-bench/'
INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    given = parser.parse_args(arguments)
    if problem := _problem(given):
        parser.error(problem)
    try:
        given.run(given)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return SkinGPTError.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skingpt-bench", description="Measure a bundle on this machine, alone.")
    sub = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    run = sub.add_parser("run", help="measure a bundle", description=sentence("measure a bundle"))
    run.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle to measure")
    run.add_argument("--suite", choices=SUITES, default="full", help="how much is measured (default: %(default)s)")
    run.add_argument(
        "--baseline",
        choices=BASELINES,
        help="also measure the same model in plain PyTorch; torch-compile: also as PyTorch compiles it (GPU, minutes)",
    )
    add_setup(run)
    run.add_argument("--no-tuning", action="store_true", help="ignore what `skingpt tune` measured")
    run.add_argument("--before", type=Path, metavar="ONNX", help="also profile the vision encoder of an earlier export")
    run.add_argument(
        "-o", dest="output", type=Path, default=Path("results.json"), metavar="FILE",
        help="file to write the results to (default: %(default)s)",
    )  # fmt: skip
    run.set_defaults(run=_run)

    report = sub.add_parser(
        "report", help="show results as Markdown and plots", description=sentence("show results as Markdown and plots")
    )
    report.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="files that `skingpt-bench run` wrote")
    report.add_argument("-o", dest="folder", type=Path, required=True, metavar="DIR", help="folder to write to")
    report.set_defaults(run=_report)

    comparison = sub.add_parser(
        "compare",
        help="say what is different in B, and whether it is more than the spread",
        description=sentence("say what is different in B, and whether it is more than the spread"),
    )
    comparison.add_argument("a", type=Path, metavar="A", help="results of the run before")
    comparison.add_argument("b", type=Path, metavar="B", help="results of the run after")
    comparison.set_defaults(run=_compare)
    return parser


def _problem(given: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, found before minutes are spent on measuring."""
    if given.run is _report:
        written = given.folder / "report.md"
        overwritten = any(path.resolve() == written.resolve() for path in given.results)
        return f"-o: {written} is an input and would be overwritten: give another folder" if overwritten else None
    return _run_problem(given) if given.run is _run else None


def _run_problem(given: argparse.Namespace) -> str | None:
    if given.before and not given.before.is_file():
        return f"--before: {given.before} is no file"
    output = given.output
    if not output.absolute().parent.is_dir() or (output.exists() and not output.is_file()):
        return f"-o: {output} cannot be written: not a file, or in no folder that exists"
    try:
        check_output("-o", output, [given.before], RESULTS_BEGIN, given.bundle)
        _options(given)
    except UsageError as error:
        return str(error)
    except InputError as error:
        return name_flag(str(error))
    return None


def _options(given: argparse.Namespace) -> Options:
    """As `skingpt` opens a bundle, huge pages included. Raises InputError for a value out of range."""
    return parse_setup(given, tuning=not given.no_tuning, huge_pages=True)


def _run(given: argparse.Namespace) -> None:
    asked = _options(given)
    runs = run_suite(given.bundle, asked, suite=given.suite, baseline=given.baseline, before=given.before)
    unfinished, kept = given.output.with_name(f"{given.output.name}.part"), False
    try:
        for results in runs:
            unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            kept = True
    except BaseException:
        if kept:
            print(f"\nwhat was measured so far is in {unfinished}", file=sys.stderr)
        raise
    unfinished.replace(given.output)


def _report(given: argparse.Namespace) -> None:
    write_report(given.results, given.folder)


def _compare(given: argparse.Namespace) -> None:
    print(compare(given.a, given.b))


if __name__ == "__main__":
    sys.exit(main())
