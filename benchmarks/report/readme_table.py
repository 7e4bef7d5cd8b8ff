"""The README's table of speed: `python -m skingpt_edge.benchmarks.report.readme_table README.md RESULTS… [--check]`.

The text between the two marks is written from the results. With `--check` it is only compared with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...engines.errors import InputError, SkinGPTError
from ..result_files import Results, read_all
from .markdown import Paragraph, as_markdown
from .summary import key_figures

BEGIN, END = "<!-- performance -->", "<!-- /performance -->"


def performance(every: Sequence[Results]) -> str:
    """A sentence about the machine and a table of six figures, in Markdown."""
    sentences = dict.fromkeys(_measured_on(results) for results in every)
    return as_markdown([Paragraph(" ".join(sentences)), key_figures(every)])


def _measured_on(results: Results) -> str:
    machine, versions = results["machine"], results["versions"]
    ours, graphs, language = (
        f"{name} {versions[name]}" for name in ("skingpt-edge", "onnxruntime", "llama-cpp-python")
    )
    return (
        f"Measured on {machine['cores']} cores of {machine['cpu']} on {results['created'][:10]} "
        f"with {ours}, {graphs} and {language}."
    )


def rewrite(readme: str, every: Sequence[Results]) -> str:
    """The README with the text between its marks replaced. Raises InputError without exactly one pair of marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise InputError(f"the README needs one line {BEGIN} and after it one line {END}")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{performance(every)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
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
    if not check:
        readme.write_text(expected, encoding="utf-8")
    elif found != expected:
        files = " ".join(map(str, results))
        command = f"python -m {__spec__.name} {readme} {files}"
        print(f"error: {readme}: its performance table is not what the results say: {command}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
