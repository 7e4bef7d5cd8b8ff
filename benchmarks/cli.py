"""`skingpt-bench`: how fast and how large a bundle is on this machine, and what limits it.

Exit codes: 0 done, 2 usage, 3 results that cannot be used, 4 the bundle, 6 an engine failed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engines.errors import SkinGPTError
from ..engines.llama_cpp_model import DEVICES
from .sizes import SUITES

INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if problem := _problem(options):
        parser.error(problem)
    try:
        options.run(options)
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
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    run = sub.add_parser("run", help="measure a bundle")
    run.add_argument("bundle", type=Path, metavar="BUNDLE")
    run.add_argument("--suite", choices=SUITES, default="full", help="how much is measured (%(default)s)")
    run.add_argument("--baseline", choices=["torch"], help="measure the same model in plain PyTorch, too")
    run.add_argument("--threads", type=int, metavar="N", help="(the physical cores)")
    run.add_argument("--device", choices=DEVICES, default="cpu", help="of the whole model (%(default)s)")
    run.add_argument("--vision-device", choices=DEVICES, help="of vision alone, if another")
    run.add_argument("--before", type=Path, metavar="ONNX", help="vision encoder of an earlier export, to profile, too")
    run.add_argument("-o", dest="output", type=Path, default=Path("results.json"), metavar="FILE", help="(%(default)s)")
    run.set_defaults(run=_run)

    report = sub.add_parser("report", help="results as Markdown, HTML and plots")
    report.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    report.add_argument("-o", dest="folder", type=Path, required=True, metavar="DIR")
    report.set_defaults(run=_report)

    compare = sub.add_parser("compare", help="what B is to A, with spread")
    compare.add_argument("a", type=Path, metavar="A")
    compare.add_argument("b", type=Path, metavar="B")
    compare.set_defaults(run=_compare)
    return parser


def _problem(options: argparse.Namespace) -> str | None:
    """What is wrong with the options' values; found before minutes are spent on measuring."""
    threads, output = getattr(options, "threads", None), getattr(options, "output", None)
    before = getattr(options, "before", None)
    if before and not before.is_file():
        return f"--before: {before} is no file"
    if threads is not None and not 1 <= threads <= 1024:
        return f"--threads is {threads}, expected 1 to 1024"
    if output and (not output.absolute().parent.is_dir() or (output.exists() and not output.is_file())):
        return f"-o: {output} cannot be written: not a file, or in no folder that exists"
    return None


def _run(options: argparse.Namespace) -> None:
    from .suite import run_suite

    runs = run_suite(
        options.bundle,
        suite=options.suite,
        baseline=options.baseline,
        threads=options.threads,
        device=options.device,
        vision_device=options.vision_device,
        before=options.before,
    )
    unfinished, kept = options.output.with_name(f"{options.output.name}.part"), False
    try:
        for results in runs:
            unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            kept = True
    except BaseException:
        if kept:
            print(f"\nwhat was measured so far is in {unfinished}", file=sys.stderr)
        raise
    unfinished.replace(options.output)


def _report(options: argparse.Namespace) -> None:
    from .report import write_report

    write_report(options.results, options.folder)


def _compare(options: argparse.Namespace) -> None:
    from .compare import compare

    print(compare(options.a, options.b))


if __name__ == "__main__":
    sys.exit(main())
