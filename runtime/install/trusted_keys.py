"""Who signed a package: minisign's signatures, and the public keys that are trusted on this machine."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import minisign

from ...engines.errors import BundleError
from .durable import others_can_write
from .store import Signer, user_folder

SYSTEM_KEYS = Path("/etc/skingpt-edge/trusted-keys")
MAX_KEY_BYTES = 1000


def own_keys() -> Path:
    """The folder of the keys that this user trusts. Raises BundleError if there is no home directory."""
    return user_folder("XDG_CONFIG_HOME", ".config") / "trusted-keys"


def check_signature(data: bytes, signature: bytes, folders: Sequence[Path]) -> Signer | None:
    """The trusted key that signed these bytes; None if the signature names a key that is in none of the folders.

    Raises BundleError if it is no signature of minisign's, or does not fit the bytes.
    """
    try:
        found = minisign.Signature.from_bytes(signature)
    except minisign.Error as error:
        raise BundleError(f"the signature is not in minisign's format: {error}") from None
    if bytes(found) + b"\n" != signature:
        raise BundleError("the signature is not written as minisign writes it")
    named = signature.splitlines()[1]
    keys = [(path, key) for path, key in _keys(folders) if key_number(key.to_base64()) == key_number(named)]
    for path, key in keys:
        with suppress(minisign.VerifyError):
            key.verify(data, found)
            return Signer(key_number(named), path.name)
    if keys:
        raise BundleError("the signature does not fit: the package was damaged, or changed after it was signed")
    return None


def key_number(line: bytes) -> str:
    """The number by which minisign calls a key, of a public key's or a signature's line in base64."""
    return base64.b64decode(line)[2:10][::-1].hex().upper()


def _keys(folders: Sequence[Path]) -> Iterator[tuple[Path, minisign.PublicKey]]:
    """The keys in these folders. Raises BundleError for one that cannot be trusted or read."""
    for folder in folders:
        for path in sorted(folder.glob("*.pub")):
            try:
                for place in (folder, path):
                    if others_can_write(place.stat()):
                        raise BundleError(f"{place}: another user can write to it, so it is not trusted: chmod go-w")
                with path.open("rb") as file:
                    key = minisign.PublicKey.from_bytes(file.read(MAX_KEY_BYTES))
            except OSError as error:
                raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
            except minisign.Error as error:
                raise BundleError(f"{path}: not a public key in minisign's format: {error}") from None
            yield path, key
