"""The SBOM and the licences of a package: all that is in a staged folder is in them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib")

WHOLE = {"cffi", "cryptography", "flatbuffers", "simplejpeg", "packaging"}
"""Distributions that are staged with their binaries; of the others, the metadata and licences are enough."""
PYTHON = Path(sys.executable).resolve()


def runtime_distributions() -> dict[str, str]:
    """Normalised name and version of all that the runtime needs, as its own metadata say."""
    found, waiting = {}, [Requirement("skingpt-edge[cpu,serve]")]
    while waiting:
        asked = waiting.pop()
        one = distribution(asked.name)
        found[canonicalize_name(asked.name)] = one.version
        for text in one.requires or ():
            needed = Requirement(text)
            extras = asked.extras or {""}
            wanted = not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if wanted and canonicalize_name(needed.name) not in found:
                waiting.append(needed)
    return found


def staged_files(name: str) -> Iterator[tuple[str, Path]]:
    one = distribution(name)
    for entry in one.files or ():
        path, place = Path(str(entry.locate())), str(entry)
        wanted = (
            name in WHOLE
            or ".dist-info/" in place
            or re.search("licen|notice", place, re.I)
            or place.endswith("libllama.so")
        )
        if wanted and ".." not in place and path.is_file() and path.suffix != ".pyc":
            yield place, path


def put(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # on another disk
        shutil.copy2(path, target)


@pytest.fixture(scope="session")
def complete(tmp_path_factory) -> tuple[Path, Path]:
    """A staged folder made of this environment's own distributions and Python, and a folder of sources."""
    base = tmp_path_factory.mktemp("staged")
    folder, sources = base / "skingpt-edge", base / "sources"
    site = folder / "python/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for name in runtime_distributions():
        for place, path in staged_files(name):
            put(path, site / place)
    for part in ("command", "engines", "runtime"):
        shutil.copytree(ROOT / part, site / "skingpt_edge" / part, ignore=shutil.ignore_patterns("__pycache__"))
    put(PYTHON, folder / "python/bin" / PYTHON.name)
    texts = (
        "cpython/LICENSE", "cpython/Doc/license.rst", "cpython/Modules/expat/COPYING", "libffi/LICENSE", "zlib/LICENSE",
        "openssl/LICENSE.txt", "llama-cpp-python/vendor/llama.cpp/LICENSE",
    )  # fmt: skip
    for text in texts:
        put(ROOT / "LICENSE", sources / text)
    (sources / "cpython/Include").mkdir()
    (sources / "cpython/Include/patchlevel.h").write_text('#define PY_VERSION      "3.11.7"\n')
    (sources / "libffi/configure.ac").write_text("AC_INIT([libffi],[3.4.4],[issues])\n")
    return folder, sources


@pytest.fixture
def staged(complete, tmp_path) -> tuple[Path, Path]:
    """One that a test may change: its files are links, so a test removes and adds, and never writes into one."""
    folders = tmp_path / "staged", tmp_path / "sources"
    for source, target in zip(complete, folders, strict=True):
        shutil.copytree(source, target, copy_function=os.link, symlinks=True)
    return folders


def script(name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "packaging/papers" / name, *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def site_packages(folder: Path) -> Path:
    (found,) = folder.rglob("site-packages")
    return found


@pytest.fixture(scope="session")
def document(complete, tmp_path_factory) -> dict:
    folder, sources = complete
    target = tmp_path_factory.mktemp("sbom") / "sbom.cdx.json"
    result = script("sbom.py", folder, "--sources", sources, "-o", target)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(target.read_text())


def test_the_sbom_is_what_its_schema_asks_for(document):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert document["specVersion"] == "1.6"
    assert validator.validate_str(json.dumps(document)) is None
    assert validator.validate_str(json.dumps({**document, "components": [{"name": "x"}]})) is not None


def test_the_sbom_has_every_distribution(document):
    listed = {
        entry["purl"] for entry in [*document["components"], document["metadata"]["component"]] if "purl" in entry
    }
    expected = {f"pkg:pypi/{name}@{version}" for name, version in runtime_distributions().items()}
    assert len(expected) > 20
    assert expected <= listed


def test_every_component_of_the_sbom_has_a_licence(document):
    without = [entry["name"] for entry in document["components"] if not entry.get("licenses")]
    assert without == []
    names = [choice["license"]["name"] for entry in document["components"] for choice in entry["licenses"]
             if "name" in choice.get("license", {})]  # fmt: skip
    assert names == [], "no SPDX name: add it to parts.toml"


def test_the_sbom_has_native_code_inside_wheels_and_outside(document):
    components = {entry["name"]: entry for entry in document["components"]}
    inside = {entry["name"] for entry in components["cryptography"]["components"]}
    assert any(name.lower() == "openssl" for name in inside)
    assert "asn1" in inside, "the wheel's own SBOM names the Rust code in it"
    assert "libjpeg-turbo" in {entry["name"] for entry in components["simplejpeg"]["components"]}
    optional = {entry["name"] for entry in components["pillow"]["components"]} & {"libimagequant", "FriBiDi"}
    assert optional == set(), "Pillow's wheel has none of them"
    assert components["CPython"]["version"] == "3.11.7", "as its sources say"
    assert components["CPython"]["evidence"]["occurrences"][0]["location"] == f"python/bin/{PYTHON.name}"


def test_the_sbom_has_our_files_and_the_bundle_with_their_hashes(document, complete):
    folder, _ = complete
    bundle = next(entry for entry in document["components"] if entry["type"] == "machine-learning-model")
    manifest = site_packages(folder) / "skingpt_edge/runtime/demo/bundle/bundle.json"
    assert bundle["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(manifest.read_bytes()).hexdigest()}]
    known = json.loads(manifest.read_text())["files"]
    hashes = {Path(entry["name"]).name: entry["hashes"][0]["content"] for entry in bundle["components"]}
    assert {name: hashes[name] for name in known} == {name: entry["sha256"] for name, entry in known.items()}
    ours = {entry["name"]: entry["hashes"][0]["content"] for entry in document["metadata"]["component"]["components"]}
    file = site_packages(folder) / "skingpt_edge/runtime/skingpt.py"
    assert ours[str(file.relative_to(folder))] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_references_in_the_sbom_lead_somewhere(document):
    references = re.findall(r'"bom-ref": ("[^"]*")', json.dumps(document))
    assert len(references) == len(set(references))
    known = {json.loads(reference) for reference in references}
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry.get("dependsOn", ())} <= known
    needed = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    starlette = next(entry["purl"] for entry in document["components"] if entry["name"] == "starlette")
    assert any(other.startswith("pkg:pypi/anyio@") for other in needed[starlette])


def test_the_same_folder_gives_the_same_sbom(complete, tmp_path, document):
    folder, sources = complete
    texts = []
    for seed, epoch in (("1", {}), ("2", {}), ("3", {"SOURCE_DATE_EPOCH": "1764201600"})):
        target = tmp_path / seed
        assert (
            script("sbom.py", folder, "--sources", sources, "-o", target, PYTHONHASHSEED=seed, **epoch).returncode == 0
        )
        texts.append(target.read_text())
    assert texts[0] == texts[1] != texts[2]
    dated = json.loads(texts[2])
    assert dated["metadata"].pop("timestamp") == "2025-11-27T00:00:00+00:00"
    assert dated == json.loads(texts[0]) == document


def test_every_distribution_and_part_has_its_licence(complete, tmp_path):
    folder, sources = complete
    result = script("licenses.py", folder, "--sources", sources, "-o", tmp_path / "licenses")
    assert (result.returncode, result.stderr) == (0, "")
    for name in [*runtime_distributions(), "cpython", "libffi", "llama.cpp-and-ggml"]:
        texts = [path for path in (tmp_path / "licenses" / name).rglob("*") if path.is_file()]
        assert texts and all(path.stat().st_size > 100 for path in texts), name
    index = (tmp_path / "licenses/index.txt").read_text()
    for name, version in runtime_distributions().items():
        assert re.search(rf"^{re.escape(f'{name} {version}')} +\S.* {re.escape(name)}/$", index, re.M), name
    assert "based in part on the work of the Independent JPEG Group" in index
    assert (tmp_path / "licenses/onnxruntime/ThirdPartyNotices.txt").stat().st_size > 100_000


def refused(staged: tuple[Path, Path], tmp_path: Path) -> str:
    folder, sources = staged
    result = script("licenses.py", folder, "--sources", sources, "-o", tmp_path / "licenses")
    assert result.returncode == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "licenses").exists()
    return result.stderr


def test_a_distribution_without_a_licence_is_refused(staged, tmp_path):
    shutil.rmtree(next(site_packages(staged[0]).glob("h11-*.dist-info")) / "licenses")
    assert re.search(r"h11 \S+: has no licence file .* name it under \[texts\.h11\]", refused(staged, tmp_path))


def test_a_native_part_without_a_licence_is_refused(staged, tmp_path):
    shutil.rmtree(staged[1] / "libffi")
    assert "libffi is in" in (said := refused(staged, tmp_path)) and "libffi or libffi-*" in said


def test_a_binary_of_unknown_origin_is_refused(staged, tmp_path):
    put(PYTHON, staged[0] / "lib/libunknown.so.1")
    assert "lib/libunknown.so.1: belongs to no distribution and no part" in refused(staged, tmp_path)


def test_two_folders_of_sources_are_refused(staged, tmp_path):
    put(ROOT / "LICENSE", staged[1] / "libffi-3.4.6/LICENSE")
    assert "several folders of sources" in refused(staged, tmp_path)


def test_sources_that_do_not_tell_a_version_are_refused(staged, tmp_path):
    file = staged[1] / "cpython/Include/patchlevel.h"
    file.unlink()
    file.write_text("#define PY_MAJOR_VERSION 3\n")
    assert "CPython: " in (said := refused(staged, tmp_path)) and "does not tell its version" in said


def test_wheels_tell_what_belongs_to_a_distribution_without_a_record(staged, tmp_path, document):
    folder, sources = staged
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for record in site_packages(folder).glob("*.dist-info/RECORD"):
        names = [line.split(",")[0] for line in record.read_text().splitlines()]
        with ZipFile(wheels / f"{record.parent.name.removesuffix('.dist-info')}-py3-none-any.whl", "w") as wheel:
            for name in names:
                wheel.writestr(name, b"")
        record.unlink()
    assert "has no RECORD: give --wheels" in refused(staged, tmp_path)
    target = tmp_path / "sbom.json"
    result = script("sbom.py", folder, "--sources", sources, "--wheels", wheels, "-o", target)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(target.read_text()) == document


def test_a_folder_that_is_no_staged_one_is_refused(tmp_path):
    result = script("sbom.py", tmp_path, "-o", tmp_path / "sbom.json")
    assert result.returncode == 1 and "expected one folder site-packages in it, found 0" in result.stderr
