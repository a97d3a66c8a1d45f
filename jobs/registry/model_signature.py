"""Signs packages of versions, and verifies them (OpenSSF model signing).

A signature covers every file of the package, by a key of elliptic curves; it is kept in the store of the audit trail,
beside it. The digest in the registry tells damage; a signature tells who vouches, even where the registry was changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError, error_line
from trainplane.registry.gates import PackageCheck
from trainplane.registry.package import NOT_PACKAGED, download
from trainplane.registry.versions import ModelVersion
from trainplane.storage import NotFound, Store, open_store

# Of an encrypted private key; on a command line others would see it.
PASSWORD = "ISNET_SIGNING_PASSWORD"


@dataclass(frozen=True)
class SignedVersion:
    """A version whose signature was made or verified.

    Attributes:
        address: Of the version.
        model_digest: Of the files that are covered.
        signature: Address of the signature.
    """

    address: str
    model_digest: str
    signature: str


def sign_version(context: Context, version: ModelVersion, key: Path) -> SignedVersion:
    """Signs the package of a version; replaces its signature.

    Raises:
        UserError: The key cannot be used.
    """
    signing = _library("signing")
    _check_key(key, "private")
    folder = download(version, context.home / "cache" / "models", again=True)
    store = open_store(context.audit)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "signature.json"
        # The library hands it on to a parser that takes bytes (1.1.1).
        password = os.environ.get(PASSWORD, "").encode() or None
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
            config.set_hashing_config(_hashing(folder)).sign(folder, file)
        # Of a key that is no key, encrypted, or of another kind.
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{key} cannot sign ({error_line(error)}); need a private key of P-256, P-384 or P-521 as PEM, and for "
                f"an encrypted one {PASSWORD}"
            ) from error
        store.write(_key(version), file.read_bytes())
    return SignedVersion(version.address, str(version.model_digest), f"{store.address}/{_key(version)}")


def verify_version(context: Context, version: ModelVersion, key: Path) -> SignedVersion:
    """Verifies the signature of a version over its files.

    Raises:
        UserError: It is not signed, or not by this key, or its files are others.
    """
    folder = download(version, context.home / "cache" / "models", again=True)
    store = open_store(context.audit)
    fault = _fault(store, version, folder, key)
    if fault is not None:
        raise UserError(f"{version.address} {fault}")
    return SignedVersion(version.address, str(version.model_digest), f"{store.address}/{_key(version)}")


def check_signed(context: Context, version: ModelVersion, folder: Path, keys: Sequence[str]) -> PackageCheck:
    """Checks that one of these keys has signed the package."""
    store = open_store(context.audit)
    faults = []
    for key in keys:
        fault = _fault(store, version, folder, Path(key).expanduser())
        if fault is None:
            return PackageCheck(True, f"signed by the key {Path(key).name}")
        faults.append(fault)
    return PackageCheck(False, f"the package {'; '.join(dict.fromkeys(faults))}")


def _fault(store: Store, version: ModelVersion, folder: Path, key: Path) -> str | None:
    """Reason why a package is not signed, if any."""
    verifying = _library("verifying")
    _check_key(key, "public")
    try:
        signature = store.read(_key(version))
    except NotFound:
        line = command_line("models", "sign", version.name, version.version, "--key", "FILE")
        return f"is not signed; who vouches for it signs it: {line}"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "signature.json"
        file.write_bytes(signature)
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key)
            config.set_hashing_config(_hashing(folder)).verify(folder, file)
        # The library and the parsers beneath it raise many kinds for what somebody wrote by hand.
        except Exception as error:
            return f"is not signed by {key.name}, or its files are others ({error_line(error) or type(error).__name__})"
    return None


def _hashing(folder: Path) -> Any:
    """Hashes the files that the digest covers, too."""
    hashing = _library("hashing")
    ignored = [path for name in NOT_PACKAGED for path in folder.rglob(name)]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _check_key(key: Path, kind: str) -> None:
    if not key.is_file():
        raise UserError(
            f"{key}: there is no such file; need a {kind} key as PEM, as `openssl ecparam -genkey -name prime256v1 "
            "-noout -out key.pem` and `openssl ec -in key.pem -pubout -out public.pem` make one"
        )


def _library(name: str) -> Any:
    """Imports a part of OpenSSF's library."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise UserError("signing needs the package model-signing; install isnet-platform[sign]") from error


def _key(version: ModelVersion) -> str:
    return f"signatures/{quote(version.name, safe='')}/{version.version}.json"
