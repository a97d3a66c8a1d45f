"""Makes certificates of one's own for content credentials.

A root, and a signer's certificate under it, as C2PA asks for (technical specification, "Credential types"). No
other reader trusts them: give the root to people who are to believe a signature, or get certificates of an authority.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from isnet.errors import InputError
from isnet.images.provenance import CERTIFICATES, KEY

_DAY = datetime.timedelta(days=1)
# Root and signer; a signer's certificate is short-lived on purpose.
_ROOT_DAYS, _SIGNER_DAYS = 3650, 398


def make_certificates(folder: Path, organisation: str, *, now: datetime.datetime | None = None) -> datetime.datetime:
    """Writes `certificates.pem` and `key.pem`; returns when they expire.

    The root's key is thrown away: a new signer comes with a new root.

    Args:
        folder: New or empty of them.
        organisation: Name that readers will see.
        now: Begin of validity; None is this moment.

    Raises:
        InputError: There are some already, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not organisation.strip():
        raise InputError("the name of the organisation is empty; readers of a picture will see it")
    begin = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(minutes=5)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = (_name(organisation, part) for part in ("root of content credentials", "content credentials"))
    root = _certificate(root_name, root_name, root_key, root_key, begin, days=_ROOT_DAYS, is_root=True)
    leaf = _certificate(name, root_name, key, root_key, begin, days=_SIGNER_DAYS, is_root=False)
    pem = b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in (leaf, root))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, content in ((KEY, secret), (CERTIFICATES, pem)):
            # Never over another key: what it has signed could not be signed again.
            handle = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
    except FileExistsError as error:
        raise InputError(f"{folder} has a {Path(error.filename).name} already; name another folder") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return begin + _SIGNER_DAYS * _DAY


def _name(organisation: str, purpose: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{organisation[:36]} {purpose}"[:64]),
        ]
    )


def _certificate(
    subject: Any, issuer: Any, key: Any, issuer_key: Any, begin: datetime.datetime, *, days: int, is_root: bool
) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_root:
        # What C2PA accepts for a signer.
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
