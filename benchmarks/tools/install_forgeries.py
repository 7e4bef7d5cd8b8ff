"""Damaged and forged packages: none may be installed, and each gets one clear line."""

import base64
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...engines.errors import BundleError
from ...runtime.install.installing import install
from ...runtime.install.package_format import END, INDEX, SIGNATURE, member_header
from ...runtime.manifest import MANIFEST
from .environment import changed_environment
from .install_packages import Member, Parts, Trusted, entry, make_trusted, parts, small_files, snapshot
from .service_checks import Findings, Say, tally

Forgery = tuple[str, bytes]
"""What was done, and the package."""
SEED = 19
INSTALLED = 5
"""The version that is installed when the forgeries come."""
PATHS = (
    "../x", "..", ".", "", "/etc/passwd", "a/b", "a//b", "a/./b", "./a", "a\\b", "C:\\x", "\\\\host\\s", "a\0b", "\0",
    "a\n", "a\r\n", " a", "a ", "é", "e\u0301", "\u202ea", "a" * 101, "a" * 4096, "-a", ".hidden", "~", "$HOME", "a*",
    "ﬁle", "LLM.GGUF", "Bundle.json", INDEX, SIGNATURE,
)  # fmt: skip
KINDS = b"1234567gxLKSVDN\0"
"""Types of a tar's members that are no plain file; and the old plain file, which nobody writes any more."""


async def run_forgeries(count: int, say: Say) -> Findings:
    """`count` random damages, and every forgery that is listed here."""
    with tempfile.TemporaryDirectory() as folder:
        trusted = make_trusted(Path(folder))
        with changed_environment(trusted.environment):
            return _run(trusted, count, say)


def _run(trusted: Trusted, count: int, say: Say) -> Findings:
    package = trusted.folder / "package.skingpt"
    package.write_bytes(parts(small_files(INSTALLED), trusted.key, version=INSTALLED).package)
    install(package)
    before = snapshot(trusted.store)
    tried: list[str] = []
    installed, unclear, changed = [], [], []
    sentences: dict[str, str] = {}
    for kind, data in [*damages(trusted, count), *forgeries(trusted)]:
        package.write_bytes(data)
        tried.append(kind)
        try:
            install(package)
            installed.append(kind)
        except BundleError as error:
            sentences.setdefault(kind.split(":")[0], str(error).replace(str(trusted.folder), "DIR"))
            if "\n" in str(error) or len(str(error)) > 500:
                unclear.append(f"{kind}: {error}")
        except Exception as error:
            unclear.append(f"{kind}: {error!r}")
        if snapshot(trusted.store) != before:
            changed.append(kind)
    say(f"{len(tried)} packages tried")
    package.write_bytes(parts(small_files(9), trusted.key, version=9).package)
    good = install(package)[0].version
    found = Findings({"packages": len(tried)})
    found.none("installed", installed)
    found.none("refused without one clear line", unclear)
    found.none("refused, and something in the store changed", changed)
    found.equal("a right package afterwards installs version", good, 9)
    found.more = {**found.more, "kinds": tally(kind.split(":")[0] for kind in tried), "first sentences": sentences}
    return found


def damages(trusted: Trusted, count: int) -> Iterator[Forgery]:
    """Of a right package of a higher version: bits flipped, ends cut off, bytes added, removed and exchanged."""
    chance = random.Random(SEED)  # noqa: S311
    whole = parts(small_files(7), trusted.key, version=7).package
    comment = whole.index(b"untrusted comment: ") + len(b"untrusted comment: ")  # which minisign does not sign
    places = [place for place in range(len(whole)) if not comment <= place < whole.index(b"\n", comment)]
    for number in range(count):
        place = chance.choice(places)
        match number % 5:
            case 0 | 1:
                changed = whole[place] ^ 1 << chance.randrange(8)
                yield f"bit flipped: byte {place}", whole[:place] + bytes([changed]) + whole[place + 1 :]
            case 2:
                yield f"cut: to {place} bytes", whole[:place]
            case 3:
                yield f"byte inserted: at {place}", whole[:place] + chance.randbytes(1) + whole[place:]
            case 4:
                length = chance.randrange(1, 2000)
                rest = whole[place + length :]
                yield f"bytes removed: {length} at {place}", whole[:place] + rest


def forgeries(trusted: Trusted) -> Iterator[Forgery]:
    """Everything that somebody could do on purpose, also with a trusted key."""
    right = parts(small_files(7), trusted.key, version=7)
    yield from _members(right)
    yield from _paths(right)
    yield from _indices(right)
    yield from _signatures(right, trusted)
    yield from _versions(trusted)
    yield from _whole_files(right)


def _members(right: Parts) -> Iterator[Forgery]:
    for number, member in enumerate(right.files):
        for kind in KINDS:
            name = f"member of type {bytes([kind])!r}"
            for size, link in ((len(member.data), b""), (0, b"/etc/passwd"), (0, b"../../state.json")):
                header = _retyped(member.name, size, kind, link)
                data = member.data if size else b""
                yield f"{name}: {member.name}", right.with_file(number, Member(member.name, data, header)).package
                inserted = (*right.files[:number], Member(member.name, data, header), *right.files[number:])
                yield f"{name} inserted: {member.name}", replace(right, files=inserted).package
    for number, member in enumerate(right.files):
        without = right.files[:number] + right.files[number + 1 :]
        yield f"file missing: {member.name}", replace(right, files=without).package
        yield f"file twice: {member.name}", replace(right, files=(*right.files, member)).package
        in_a_row = (*right.files[:number], member, *right.files[number:])
        yield f"file twice in a row: {member.name}", replace(right, files=in_a_row).package
        if member is not right.files[-1]:
            yield f"files in another order: {member.name}", replace(right, files=(*without, member)).package
        other = Member(member.name, bytes(len(member.data)) + b"1")
        yield f"longer file: {member.name}", right.with_file(number, other).package
        huge = Member(member.name, member.data, member_header(member.name, 1 << 40))
        yield f"huge size in a header: {member.name}", right.with_file(number, huge).package
    extra = Member("extra.bin", b"1")
    yield "file that is not listed: at the end", replace(right, files=(*right.files, extra)).package
    yield "file that is not listed: at the beginning", replace(right, before=(extra,)).package
    yield "index twice: in front", replace(right, before=(Member(INDEX, b"{}"),)).package
    for end in (b"", END[:512], END[:-1], END + b"\0", END + b"1", END * 10, bytes(1023) + b"1"):
        yield f"other end: {len(end)} bytes", replace(right, end=end).package


def _retyped(name: str, size: int, kind: int, link: bytes) -> bytes:
    """A header of another type with a right checksum."""
    header = bytearray(member_header(name, size))
    header[156] = kind
    header[157 : 157 + len(link)] = link
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _paths(right: Parts) -> Iterator[Forgery]:
    """Names that lead elsewhere: in the signed index, in a header, and both."""
    listed = dict(right.index["files"])
    for path in PATHS:
        content = b"planted"
        indexed = right.with_index(files={**listed, path: entry(content)})
        encoded = path.encode()[:100]
        header = bytearray(member_header("a", len(content)))
        header[:100] = encoded.ljust(100, b"\0")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        member = Member("a", content, bytes(header))
        yield f"path in index and header: {path[:40]!r}", replace(indexed, files=(*right.files, member)).package
        yield f"path in the index: {path[:40]!r}", replace(indexed, files=(*right.files, Member("a", content))).package
        yield f"path in a header: {path[:40]!r}", replace(right, files=(*right.files[:-1], member)).package


def _indices(right: Parts) -> Iterator[Forgery]:
    """Indices that no package has, signed by a trusted key."""
    plain = json.dumps(right.index).encode()
    raw: dict[str, bytes] = {
        "no JSON": b"{", "empty list": b"[]", "null": b"null", "a number": b"7", "deep": b"[" * 100_000,
        "a BOM": b"\xef\xbb\xbf" + plain, "UTF-16": plain.decode().encode("utf-16"), "NUL": plain + b"\0",
        "no UTF-8": plain.replace(b"small", b"sm\xff\xffl"), "something after it": plain + b"{}",
        "a key twice": plain.replace(b'"version": 7', b'"version": 1, "version": 7'),
        "NaN": plain.replace(b'"version": 7', b'"version": NaN'), "1e400": plain.replace(b": 7", b": 1e400"),
        "many digits": plain.replace(b'"version": 7', b'"version": ' + b"9" * 5000),
        "over the limit": plain + b" " * 1_000_000,
    }  # fmt: skip
    for what, data in raw.items():
        yield f"index that is none: {what}", replace(right, index_data=data).package
    values: dict[str, tuple[Any, ...]] = {
        "format": ("skingpt-package/2", 1, None, [], ""),
        "name": ("", "../up", "a/b", "Small", "small ", "x" * 64, "é", None, 3, ".", "-a", "a\n", ["small"]),
        "version": (0, -1, 1.5, "7", True, None, 10**18, 1 << 63, [7], 7.0),
        "files": ({}, [], None, "all", {"a": None}, {MANIFEST: right.index["files"][MANIFEST]}),
    }
    for name, wrong in values.items():
        for value in wrong:
            yield f"wrong {name} in the index: {value!r:.40}", right.with_index(**{name: value}).package
    yield "unknown field in the index: more", right.with_index(more=1).package
    for name in right.index:
        fields = {key: value for key, value in right.index.items() if key != name}
        yield f"field missing in the index: {name}", replace(right, index=fields).package
    listed = right.index["files"]
    for size in (-1, 0, 1, 4999, 5001, 1 << 40, 1 << 63, 1.5, "5000", None, True):
        changed = {**listed, "llm.gguf": {**listed["llm.gguf"], "size": size}}
        yield f"wrong size in the index: {size!r}", right.with_index(files=changed).package
    for digest in ("", "0" * 64, "G" * 64, listed["llm.gguf"]["sha256"].upper(), None, 7):
        changed = {**listed, "llm.gguf": {**listed["llm.gguf"], "sha256": digest}}
        yield f"wrong hash in the index: {digest!r:.20}", right.with_index(files=changed).package
    yield "a manifest of other files: fewer", _of_other_files(right, lambda files: files.pop("llm.gguf"))
    yield "a manifest of other files: more", _of_other_files(right, lambda files: files.update(x=entry(b"")))
    other = {"sha256": "0" * 64}
    yield "a manifest of other files: another hash", _of_other_files(right, lambda one: one["llm.gguf"].update(other))
    for number in (2, 101):
        extra = {f"extra{i}": b"" for i in range(number)}
        more = right.with_index(files={**listed, **{name: entry(data) for name, data in extra.items()}})
        members = tuple(Member(name, data) for name, data in extra.items())
        yield f"listed files that the bundle lacks: {number}", replace(more, files=(*right.files, *members)).package


def _of_other_files(right: Parts, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A package whose manifest does not list the files that are there."""
    manifest = json.loads(right.files[0].data)
    change(manifest["files"])
    data = json.dumps(manifest).encode()
    changed = right.with_index(files={**right.index["files"], MANIFEST: entry(data)})
    return changed.with_file(0, Member(MANIFEST, data)).package


def _signatures(right: Parts, trusted: Trusted) -> Iterator[Forgery]:
    data = json.dumps(right.index).encode()
    good = bytes(trusted.key.sign(data, trusted_comment="small version 7")) + b"\n"
    lines = good.splitlines()
    foreign = bytes(trusted.other.sign(data, trusted_comment="small version 7")).splitlines()
    ours, theirs = base64.b64decode(lines[1]), base64.b64decode(foreign[1])
    older = bytes(trusted.key.sign(json.dumps({**right.index, "version": 8}).encode(), trusted_comment="v8"))

    def changed(number: int, line: bytes) -> bytes:
        return b"\n".join([*lines[:number], line, *lines[number + 1 :]]) + b"\n"

    wrong = {
        "none at all": b"", "by another key": b"\n".join(foreign), "of another index": older, "twice": good * 2,
        "by another key under a trusted number": changed(1, base64.b64encode(ours[:10] + theirs[10:])),
        "other bytes of it": changed(1, base64.b64encode(ours[:10] + bytes(64))),
        "said to be of the unhashed kind": changed(1, base64.b64encode(b"Ed" + ours[2:])),
        "of an unknown kind": changed(1, base64.b64encode(b"XX" + ours[2:])),
        "of no base64": changed(1, b"!" * 100), "too short": changed(1, lines[1][:-8]),
        "with another comment": changed(2, lines[2] + b" 8"), "with no comment": changed(2, b""),
        "with the comment's signature of another": changed(3, foreign[3]), "cut": good[:-60],
        "of 16 MB": good + b" " * (1 << 24), "with other line ends": good.replace(b"\n", b"\r\n"),
        "with other spare bits": changed(1, lines[1][:-2] + bytes([lines[1][-2] + 1]) + b"="),
        "a public key": b"untrusted comment: x\n" + lines[1], "NUL": bytes(200),
        "with a NUL": changed(1, b"\0" + lines[1]), "not UTF-8": b"\xff" + good[1:],
    }  # fmt: skip
    for what, signature in wrong.items():
        yield f"signature: {what}", replace(right, index_data=data, signature=signature).package
    yield "signature: taken away", replace(right, key=None).package
    yield "signature: by another key from the start", replace(right, key=trusted.other).package
    behind = replace(right, key=None, files=(*right.files, Member(SIGNATURE, good)))
    yield "signature: at the end", behind.package


def _versions(trusted: Trusted) -> Iterator[Forgery]:
    for version in range(1, INSTALLED):
        old = parts(small_files(version), trusted.key, version=version)
        yield f"older version, rightly signed: {version}", old.package
    other = parts(small_files(99), trusted.key, version=INSTALLED)
    yield "the same version with other content: rightly signed", other.package


def _whole_files(right: Parts) -> Iterator[Forgery]:
    """Files that are something else."""
    for what, data in {
        "empty": b"", "zeros": bytes(20_000), "text": b"not a package\n" * 100,
        "a zip's beginning": b"PK\3\4" + bytes(5000), "gzip": b"\x1f\x8b" + right.package,
        "two packages": right.package * 2, "the second half": right.package[4096:], "only its end": END,
    }.items():  # fmt: skip
        yield f"another file: {what}", data
