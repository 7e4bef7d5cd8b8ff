"""Collect the licences of all that is in a staged folder: `python licenses.py STAGED --sources FOLDER -o FOLDER`.

Writes a folder for each distribution and native part, and `index.txt`. Fails with a sentence for whatever has none.
"""

import re
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from staged import FoundPart, PaperError, Staged, license_of, make_parser, open_staged

REPOSITORY = Path(__file__).parents[2]
NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|third.?party|authors)", re.IGNORECASE)
TEXTS = {"", ".txt", ".md", ".rst", ".apache", ".bsd", ".mit", ".apache2"}
INDEX = "index.txt"
SHOWN = 4  # files that hold a part
HEAD = """SkinGPT Edge, and all that comes with it in this package.

Each line: name and version, its licence as an SPDX expression, and the folder here that holds its text. Native code
that is compiled into another file stands below, with the files that hold it.
"""


def main() -> None:
    parser = make_parser("Collect the licences of all that is in a staged folder.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    given = parser.parse_args()
    try:
        collect(open_staged(given), given.output)
    except PaperError as error:
        sys.exit(f"error: {error}")


def collect(staged: Staged, target: Path) -> None:
    """Write `target`, whole or not at all. Raises PaperError if it exists, and for what has no licence."""
    if target.exists():
        raise PaperError(f"{target}: exists already: remove it first")
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    lines = [HEAD]
    for name, one in staged.distributions.items():
        folder = _copy(distribution_texts(staged, name, one), unfinished, name)
        lines.append(_line(f"{name} {one.version}", license_of(one, staged.table) or "see its text", folder))
    lines.append("\nNative code:\n")
    notices = set()
    for found in staged.parts():
        lines += _part_lines(staged, found, unfinished)
        notices |= {found.part.notice} - {""}
    (unfinished / INDEX).write_text("\n".join([*lines, "", *sorted(notices)]).rstrip() + "\n")
    unfinished.rename(target)


def _line(what: str, expression: str, folder: str) -> str:
    return f"{what:<34} {expression:<32} {folder}/"


def _part_lines(staged: Staged, found: FoundPart, target: Path) -> list[str]:
    part, what = found.part, f"{found.part.name} {found.version}".strip()
    if found.owner in part.covered_by:
        folder = found.owner
    else:
        folder = _copy(part_texts(staged, found), target, re.sub(r"[^a-z0-9.]+", "-", part.name.lower()).strip("-"))
    more = [f"    and {len(found.places) - SHOWN} more"] if len(found.places) > SHOWN else []
    return [_line(what, part.license, folder), *(f"    in {place}" for place in found.places[:SHOWN]), *more]


def distribution_texts(staged: Staged, name: str, one: Distribution) -> dict[str, Path]:
    """A distribution's licence files, by their path in its folder. Raises PaperError if it has none."""
    metadata = staged.metadata_folder(name)
    found = {}
    for path in sorted({*staged.files_of(name), *(path.resolve() for path in metadata.rglob("*"))}):
        in_metadata = path.is_relative_to(metadata.resolve() / "licenses")
        if path.is_file() and (in_metadata or (NAMES.search(path.name) and path.suffix.lower() in TEXTS)):
            base = metadata if path.is_relative_to(metadata.resolve()) else staged.site_packages
            place = str(path.relative_to(base.resolve()))
            found[place.removeprefix("licenses/")] = path
    if found:
        return found
    if given := staged.table.texts.get(name):
        return {Path(given["file"]).name: REPOSITORY / given["file"]}
    raise PaperError(
        f"{name} {one.version}: has no licence file in {metadata.name}: find its text, and name it under "
        f"[texts.{name}] in parts.toml with the reason"
    )


def part_texts(staged: Staged, found: FoundPart) -> dict[str, Path]:
    """A native part's licence files in its sources. Raises PaperError if there are no such sources or files."""
    part = found.part
    where = f"{part.name} is in {found.places[0]}"
    source = staged.source(part)
    if not source:
        wanted = (
            f"give --sources a folder that has {' or '.join(part.sources)}"
            if part.sources
            else "add its texts to parts.toml"
        )
        raise PaperError(f"{where}, and its licence was not found: {wanted}")
    texts = {str(path.relative_to(source)): path for glob in part.texts for path in source.glob(glob) if path.is_file()}
    if not texts:
        raise PaperError(f"{where}, and {source} has none of {', '.join(part.texts)}: correct parts.toml")
    return dict(sorted(texts.items()))


def _copy(texts: dict[str, Path], target: Path, name: str) -> str:
    """Copy texts into a folder of `target`; its name."""
    for place, path in _without_common_folders(texts):
        copy = target / name / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)
    return name


def _without_common_folders(texts: dict[str, Path]) -> Iterable[tuple[str, Path]]:
    """Flat, where no two files have the same name."""
    flat = {path.name: path for path in texts.values()}
    return flat.items() if len(flat) == len(texts) else texts.items()


if __name__ == "__main__":
    main()
