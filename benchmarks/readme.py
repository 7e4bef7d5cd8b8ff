"""The README's performance table: `python -m skingpt_edge.benchmarks.readme README.md results.json… [--check]`.

What stands between the two marks is written from the results; with `--check` it only has to be equal to them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engines.errors import InputError, SkinGPTError
from .document import Paragraph, as_markdown
from .report_input import Results, read_all
from .summary import summary
from .tables import versions
from .wording import date, si

BEGIN, END = "<!-- performance -->", "<!-- /performance -->"


def performance(every: Sequence[Results]) -> str:
    """Machine and table in Markdown."""
    machines = dict.fromkeys(_machine(results) for results in every)
    sentences = [*machines, "In brackets: the target, reached (✓) or not (✗)."]
    return as_markdown([Paragraph(" ".join(sentences)), summary(every)])


def _machine(results: Results) -> str:
    machine = results["machine"]
    devices = "".join(f", {gpu}" for gpu in machine["gpu"]) or ", no GPU"
    return (
        f"Measured on {machine['cores']} cores of {machine['cpu']}, {si(machine['ram_bytes'], 'B')}{devices}, "
        f"{results['threads']} threads, {date(results['created'])[:10]}; {versions(results)}."
    )


def rewrite(readme: str, every: Sequence[Results]) -> str:
    """The README with the text between its marks replaced. Raises InputError without exactly one pair of marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise InputError(f"the README needs one line {BEGIN} and after it one line {END}")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{performance(every)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skingpt_edge.benchmarks.readme", description=__doc__)
    parser.add_argument("readme", type=Path, metavar="README.md")
    parser.add_argument("results", type=Path, nargs="+", metavar="results.json")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the README says something else")
    options = parser.parse_args(arguments)
    try:
        return _run(options.readme, options.results, check=options.check)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return InputError.exit_code


def _run(readme: Path, results: Sequence[Path], *, check: bool) -> int:
    found = readme.read_text(encoding="utf-8")
    expected = rewrite(found, read_all(results))
    if check and found != expected:
        files = " ".join(map(str, results))
        print(
            f"error: {readme}: its performance table is not what the results say: "
            f"python -m skingpt_edge.benchmarks.readme {readme} {files}",
            file=sys.stderr,
        )
        return 1
    if not check:
        readme.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
