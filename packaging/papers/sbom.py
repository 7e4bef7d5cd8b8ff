"""List all that is in a staged folder as a CycloneDX SBOM: `python sbom.py STAGED --sources FOLDER -o FILE`.

JSON of specification 1.6, compared with its schema before it is written. The same folder gives the same bytes: there is
no time in it unless SOURCE_DATE_EPOCH is set, and its serial number is made from its content.
"""

import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence, Occurrence
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from staged import FoundPart, PaperError, Staged, license_of, make_parser, open_staged

OURS = "skingpt-edge"
BUNDLE = "runtime/demo/bundle"
NAMESPACE = UUID("3b3f7e0c-6d3b-5a53-9d3c-5a9b0d0f6f61")  # any; serial numbers are made in it


def main() -> None:
    parser = make_parser("List all that is in a staged folder as a CycloneDX SBOM.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="file to write")
    given = parser.parse_args()
    try:
        text = sbom(open_staged(given), os.environ.get("SOURCE_DATE_EPOCH"))
    except PaperError as error:
        sys.exit(f"error: {error}")
    given.output.write_text(text)


def sbom(staged: Staged, epoch: str | None = None) -> str:
    """The document; `epoch` is its time, in seconds since 1970. Raises PaperError."""
    parts = staged.parts()
    components = {name: _distribution(staged, name, one, parts) for name, one in staged.distributions.items()}
    bom = Bom(components=[one for name, one in components.items() if name != OURS])
    bom.components.update(_part(found) for found in parts if not found.owner)
    bom.components.add(_bundle(staged))
    bom.metadata.component = components[OURS]
    bom.register_dependency(components[OURS], [*bom.components])
    for name, one in staged.distributions.items():
        if name != OURS:
            needed = (components[other] for other in _requirements(one, staged.python_version) if other in components)
            bom.register_dependency(components[name], needed)
    return _text(bom, epoch)


def _text(bom: Bom, epoch: str | None) -> str:
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    document["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE, json.dumps(document, sort_keys=True))}"
    if epoch:
        document["metadata"]["timestamp"] = datetime.fromtimestamp(int(epoch), UTC).isoformat()
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise PaperError(f"the SBOM is not what its schema asks for: {wrong}")
    return text


def _distribution(staged: Staged, name: str, one: Distribution, parts: list[FoundPart]) -> Component:
    """A Python distribution, with what is known of the libraries inside it."""
    purl = PackageURL("pypi", name=name, version=one.version)
    inside = {(c.name.lower(), c.version): c for c in _declared(staged, name)}
    for found in parts:
        if found.owner == name:
            inside.setdefault((found.part.name.lower(), found.version or None), _part(found))
    files = _our_files(staged) if name == OURS else _bundled_libraries(staged, name)
    return Component(
        name=name,
        version=one.version,
        type=ComponentType.APPLICATION if name == OURS else ComponentType.LIBRARY,
        description=one.metadata["Summary"],
        licenses=[LicenseFactory().make_from_string(known)] if (known := license_of(one, staged.table)) else (),
        purl=purl,
        bom_ref=str(purl),
        components=[*inside.values(), *files],
    )


def _declared(staged: Staged, name: str) -> Iterator[Component]:
    """What a wheel's own SBOMs say is inside it (PEP 770). What is optional may not be; parts.toml has it if it is."""
    for path in sorted(staged.metadata_folder(name).glob("sboms/*.json")):
        for row in json.loads(path.read_text())["components"]:
            if canonicalize_name(row["name"]) == name or row.get("scope") == "optional":
                continue
            purl = PackageURL.from_string(row["purl"]) if "purl" in row else None
            yield Component(
                name=row["name"],
                version=row.get("version"),
                description=f"As {path.name} in the wheel of {name} says.",
                licenses=[LicenseFactory().make_from_string(words) for words in _declared_licenses(row)][:1],
                purl=purl,
                bom_ref=f"{name}: {path.name}: {row['name']} {row.get('version')}",
            )


def _declared_licenses(row: dict[str, Any]) -> Iterator[str]:
    for entry in row.get("licenses", ()):
        known = entry.get("license", {})
        if words := entry.get("expression") or known.get("id") or known.get("name"):
            yield words


def _bundled_libraries(staged: Staged, name: str) -> Iterator[Component]:
    """The libraries that auditwheel put beside the package."""
    for path in sorted(set(staged.files_of(name))):
        if path.parent.name.endswith(".libs"):
            yield _file(path, staged.folder)


def _our_files(staged: Staged) -> Iterator[Component]:
    folder = staged.site_packages / "skingpt_edge"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and not path.is_relative_to(folder / BUNDLE):
            yield _file(path, staged.folder)


def _bundle(staged: Staged) -> Component:
    """The demonstration model. Its hash is that of bundle.json, which has the hash of every other file."""
    folder = staged.site_packages / "skingpt_edge" / BUNDLE
    if not (folder / "bundle.json").is_file():
        raise PaperError(f"{folder}: is no bundle")
    document = json.loads((folder / "bundle.json").read_text())
    return Component(
        name=document["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        description="Demonstration bundle: a small model trained on drawings of made-up skin conditions.",
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        hashes=[_sha256(folder / "bundle.json")],
        bom_ref="demonstration bundle",
        components=[_file(path, staged.folder) for path in sorted(folder.iterdir())],
    )


def _file(path: Path, folder: Path) -> Component:
    place = str(path.relative_to(folder.resolve()))
    return Component(name=place, type=ComponentType.FILE, hashes=[_sha256(path)], bom_ref=f"file: {place}")


def _sha256(path: Path) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256(path.read_bytes()).hexdigest())


def _part(found: FoundPart) -> Component:
    part, version, name = found.part, found.version or None, f"{found.part.name} {found.version}"
    purl = PackageURL.from_string(part.purl)
    places = [Occurrence(location=place, bom_ref=f"{name} in {place}") for place in found.places]
    return Component(
        name=part.name,
        version=version,
        licenses=[LicenseFactory().make_from_string(part.license)],
        purl=PackageURL(purl.type, purl.namespace, purl.name, version),
        bom_ref=f"{found.owner or 'native'}: {name}",
        evidence=ComponentEvidence(occurrences=places),
    )


def _requirements(one: Distribution, python: str) -> Iterator[str]:
    """The distributions that a distribution needs with this version of Python, without extras."""
    environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    for text in one.requires or ():
        needed = Requirement(text)
        if not needed.marker or needed.marker.evaluate(environment):
            yield canonicalize_name(needed.name)


if __name__ == "__main__":
    main()
