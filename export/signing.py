"""Keys in minisign's format: made here or by `minisign -G`, used here or by `minisign -S`."""

import getpass
import os
import sys
from pathlib import Path

import minisign

from ..engines.errors import ExportError
from ..runtime.install.trusted_keys import key_number


def make_keys(secret: Path, public: Path, *, password: str | None) -> str:
    """Write a new pair of keys, the secret one readable by its owner alone; the key's number.

    None makes a secret key without a password. Raises ExportError if one of the files is there already.
    """
    if existing := [path for path in (secret, public) if os.path.lexists(path)]:
        raise ExportError(f"{existing[0]}: exists; a key is never replaced: give another name with -o")
    pair = minisign.KeyPair.generate()
    number = key_number(pair.public_key.to_base64())
    pair.public_key.untrusted_comment = f"minisign public key {number}"
    if password is not None:
        pair.secret_key.encrypt(password)
    _write(secret, bytes(pair.secret_key), 0o600)
    _write(public, bytes(pair.public_key), 0o644)
    return number


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_secret_key(path: Path) -> minisign.SecretKey:
    """A secret key, ready to sign; its password is asked for if it has one. Raises ExportError."""
    try:
        key = minisign.SecretKey.from_file(path)
        if key.is_encrypted():
            key.decrypt(ask_password(f"Password of {path}: "))
    except minisign.Error as error:
        raise ExportError(f"{path}: {error}") from None
    return key


def ask_password(prompt: str) -> str:
    """A password typed on the terminal, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\n")
