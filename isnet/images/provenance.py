"""Content credentials of filled pictures (C2PA): signs, and reads.

A signed manifest in the file says that a photo was opened and edited, where, and by which model. Pixels stay as they
are. It needs the extra `provenance` (c2pa-python). Who reads it learns what was declared; a file whose manifest was
taken out says nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isnet.errors import InputError
from isnet.images.jumbf import unsigned_fault

CERTIFICATES, KEY = "certificates.pem", "key.pem"
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_GENERATOR = "isnet"
_FILLED_BY_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_PARAMETERS = "org.isnet.fill"
_ORIGINAL = "original"
# Each stands in a manifest; one changed byte leaves the others.
_MARKS = (b"jumdc2pa", b"c2pa.assertions", b"c2pa.signature")
# Nothing is fetched from the network, and no previews are stored.
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Origin:
    """Model that filled a hole."""

    model: str  # Name or address
    version: str = ""
    digest: str = ""  # Sha256 of its files


@dataclass(frozen=True)
class Credentials:
    """Statement of a file about itself, and its state.

    Attributes:
        state: "none"; "trusted": signed by a certificate that we trust; "signed": intact, by a signer unknown here;
            "changed": the file or its manifest is not as it was signed.
        signer: Name in the certificate.
        fault: What was changed.
        edits: Edits that it declares, the oldest first.
        original: Sha256 of the photo that was opened, if it was declared.
    """

    state: str
    signer: str = ""
    fault: str = ""
    edits: tuple[Mapping[str, Any], ...] = ()
    original: str = ""

    def sentences(self) -> list[str]:
        """Says it in plain words."""
        if self.state == "none":
            return ["it carries no content credentials: nothing is said of how it was made"]
        if self.state == "changed":
            return [f"its content credentials are broken ({self.fault}): the file is not as it was signed"]
        trust = "whose certificate is trusted here" if self.state == "trusted" else "who is not known here"
        lines = [f"signed by {self.signer or 'somebody'}, {trust}; not changed since"]
        for edit in self.edits:
            where = ", ".join(
                f"{box['width']:g} x {box['height']:g} pixels at {box['x']:g}, {box['y']:g}" for box in edit["regions"]
            )
            model = " ".join(part for part in (edit["model"], edit["version"]) if part)
            ratio = edit.get("ratio")
            share = "" if ratio is None else f", {100 * ratio:.1f} % of the picture"
            lines.append(f"a hole was filled by {model}: {where}{share}")
            if edit.get("digest"):
                lines.append(f"digest of the model: {edit['digest']}")
        if self.original:
            lines.append(f"made from a file of sha256 {self.original}")
        return lines


@dataclass(frozen=True)
class Identity:
    """Certificates and key that sign.

    Attributes:
        chain: PEM, the signer's certificate first.
        key: PEM of its key; never shown.
    """

    chain: bytes
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, folder: Path, *, signs: bool = True) -> Identity:
        """Reads `certificates.pem` and `key.pem`.

        Args:
            folder: With both files.
            signs: Whether to refuse what can check a signature and not make one, such as a certificate that has ended.

        Raises:
            InputError: They are not there, others may read the key, or they cannot sign.
        """
        try:
            key_file = folder / KEY
            if key_file.stat().st_mode & 0o077:
                raise InputError(f"{key_file} may be read by others; make it private: chmod 600 {key_file}")
            identity = cls((folder / CERTIFICATES).read_bytes(), key_file.read_bytes())
        except OSError as error:
            raise InputError(
                f"{folder}: {Path(str(error.filename)).name} cannot be read ({error.strerror}); need {CERTIFICATES} "
                f"and {KEY} of one who signs"
            ) from error
        # Known before the first picture is filled, and not when it is signed.
        if signs:
            _c2pa()
            _check_pair(identity.chain, identity.key, folder)
        return identity

    @cached_property
    def _context(self) -> Any:
        return _c2pa().Context.from_dict({**_SETTINGS, "trust": {"trust_anchors": self.chain.decode()}})

    def sign(
        self,
        data: bytes,
        suffix: str,
        *,
        original: bytes,
        original_format: str,
        hole: NDArray[np.bool_],
        origin: Origin,
    ) -> bytes:
        """Adds a signed manifest to a filled picture.

        Args:
            data: The encoded picture.
            suffix: Of its format, one of `MEDIA_TYPES`.
            original: The photo's file before.
            original_format: Pillow's name of the photo's format; one unknown to C2PA is described by its digest.
            hole: True on filled pixels, shape (H, W).
            origin: What filled it.

        Raises:
            InputError: The format has no place for it, or the certificates cannot sign.
        """
        c2pa = _c2pa()
        media_type = MEDIA_TYPES.get(suffix.lower())
        if media_type is None:
            raise InputError(
                f"{suffix} has no place for content credentials; write {_known()}, or take `provenance` out of the "
                "context"
            )
        manifest = _manifest(media_type, hole, origin, hashlib.sha256(original).hexdigest())
        signed = io.BytesIO()
        try:
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(_algorithm(self.key), self.chain, self.key, None))
            with c2pa.Builder.from_json(json.dumps(manifest), self._context) as builder:
                ingredient = {"title": _ORIGINAL, "relationship": "parentOf", "instance_id": _ORIGINAL}
                ingredient_type = f"image/{original_format.lower()}" if original_format in _FORMATS else None
                # A format that the reader cannot parse is described by the result, with the digest of the original.
                builder.add_ingredient(
                    json.dumps({**ingredient, "label": _ORIGINAL}),
                    ingredient_type or media_type,
                    io.BytesIO(original if ingredient_type else data),
                )
                builder.sign(signer, media_type, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise InputError(
                f"the picture cannot be signed ({str(error)[:200]}); check {CERTIFICATES} and {KEY} of the context's "
                "`provenance`"
            ) from error
        return signed.getvalue()


def read_credentials(data: bytes, suffix: str, *, anchors: bytes = b"") -> Credentials:
    """Reads and checks the content credentials of a file.

    Args:
        data: The file.
        suffix: Of its name.
        anchors: Certificates to trust, PEM; those of an `Identity` are its chain.

    Raises:
        InputError: No format that can have them.
    """
    c2pa = _c2pa()
    media_type = MEDIA_TYPES.get(suffix.lower())
    if media_type is None:
        raise InputError(f"{suffix or 'a name without suffix'} is no format with content credentials; need {_known()}")
    trust = {"trust": {"trust_anchors": anchors.decode()}} if anchors else {}
    try:
        with c2pa.Context.from_dict({**_SETTINGS, **trust}) as context:
            reader = c2pa.Reader(media_type, io.BytesIO(data), context=context)
            report = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(type(error)) + str(error):
            # Without the mark there is none; with it, it was made unreadable.
            is_marked = any(mark in data for mark in _MARKS)
            return Credentials("changed", fault="its manifest cannot be found") if is_marked else Credentials("none")
        return Credentials("changed", fault=str(error)[:200])
    return _credentials(report, data, suffix.lower())


def _credentials(report: Mapping[str, Any], data: bytes, suffix: str) -> Credentials:
    state = report.get("validation_state")
    manifest = report.get("manifests", {}).get(report.get("active_manifest"), {})
    signer = (manifest.get("signature_info") or {}).get("common_name") or ""
    if state not in ("Valid", "Trusted"):
        failures = report.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
        codes = [failure.get("code", "") for failure in failures]
        reasons = [code for code in codes if code != "signingCredential.untrusted"] or codes
        return Credentials("changed", signer, fault=", ".join(reasons[:3]) or "not valid")
    generators = [generator.get("name") for generator in manifest.get("claim_generator_info", [])]
    # What others have written may have other bytes there.
    if generators == [_GENERATOR] and (fault := unsigned_fault(data, suffix)) is not None:
        return Credentials("changed", signer, fault=fault)
    try:
        edits, original = _edits(manifest)
    # Whoever signs may write anything there.
    except (AttributeError, KeyError, TypeError, ValueError):
        edits, original = [], ""
    return Credentials("trusted" if state == "Trusted" else "signed", signer, "", tuple(edits), original)


def _edits(manifest: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Edits of a manifest, and the digest of the original."""
    edits, original = [], ""
    for assertion in manifest.get("assertions", []):
        if not str(assertion.get("label", "")).startswith("c2pa.actions"):
            continue
        for action in assertion["data"].get("actions", []):
            if action.get("action") != "c2pa.edited":
                continue
            agent, parameters = action.get("softwareAgent") or {}, action.get("parameters") or {}
            ours = parameters.get(_PARAMETERS) or {}
            original = str(ours.get("original_sha256", original))
            regions = [
                _region(range_["shape"])
                for change in action.get("changes", [])
                for range_ in change.get("region", [])
                if range_.get("type") == "spatial" and "origin" in range_.get("shape", {})
            ]
            agent = agent if isinstance(agent, dict) else {"name": str(agent)}
            edits.append(
                {
                    "model": str(agent.get("name", "unknown software")),
                    "version": str(agent.get("version", "")),
                    "digest": str(ours.get("model_digest", "")),
                    "ratio": None if ours.get("hole_ratio") is None else float(ours["hole_ratio"]),
                    "regions": regions,
                }
            )
    return edits, original


def _region(shape: Mapping[str, Any]) -> dict[str, float]:
    """Place and size of a rectangle, in pixels."""
    origin = shape["origin"]
    numbers = {"x": origin["x"], "y": origin["y"], "width": shape["width"], "height": shape["height"]}
    return {name: float(number) for name, number in numbers.items()}


def _manifest(media_type: str, hole: NDArray[np.bool_], origin: Origin, original_sha256: str) -> dict[str, Any]:
    """Definition of a manifest: opened, then edited."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    box = {
        "type": "rectangle",
        "unit": "pixel",
        "origin": {"x": float(columns[0]), "y": float(rows[0])},
        "width": float(columns[-1] - columns[0] + 1),
        "height": float(rows[-1] - rows[0] + 1),
    }
    edited = {
        "action": "c2pa.edited",
        "digitalSourceType": _FILLED_BY_MODEL,
        "description": "a hole was filled by a trained model; other pixels are the photo's",
        "softwareAgent": {"name": origin.model, **({"version": origin.version} if origin.version else {})},
        "changes": [{"description": "hole", "region": [{"type": "spatial", "shape": box}]}],
        "parameters": {
            _PARAMETERS: {
                "model_digest": origin.digest,
                "hole_ratio": round(float(hole.mean()), 6),
                # The exact hole: its pixels in rows, eight a byte.
                "hole_sha256": hashlib.sha256(np.packbits(hole).tobytes()).hexdigest(),
                "original_sha256": original_sha256,
            }
        },
    }
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_ORIGINAL]}}
    return {
        "claim_generator_info": [{"name": _GENERATOR, "version": "1"}],
        "format": media_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [opened, edited]}}],
    }


def _check_pair(chain: bytes, key: bytes, folder: Path) -> None:
    """Raises InputError where certificate and key cannot sign."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        certificate = load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise InputError(
            f"{folder / CERTIFICATES} has no certificate in PEM ({error}); need the signer's first"
        ) from error
    if certificate.public_key() != _loaded(key).public_key():
        raise InputError(
            f"{folder / KEY} is not the key of the first certificate of {CERTIFICATES}; need the two of one signer"
        )
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.now(UTC) <= end:
        raise InputError(
            f"{folder / CERTIFICATES} is valid from {begin:%Y-%m-%d} until {end:%Y-%m-%d}; have it renewed, or take "
            "`provenance` out of the context"
        )


def _loaded(key: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{KEY} is no key in PEM without a password; make one, or have one made") from error


def _algorithm(key: bytes) -> bytes:
    """C2PA's name of the key's algorithm."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    loaded = _loaded(key)
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    sizes = {256: b"es256", 384: b"es384", 521: b"es512"}
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.key_size in sizes:
        return sizes[loaded.curve.key_size]
    return b"ps256"


def _known() -> str:
    return ", ".join(MEDIA_TYPES)


def _c2pa() -> Any:
    # The library talks to a time server or a logger of its own only where it is told to.
    os.environ.setdefault("C2PA_LOG_LEVEL", "error")
    try:
        import c2pa
    except ImportError as error:
        raise InputError(
            "content credentials need the extra `provenance`; install it: pip install 'isnet-platform[provenance]'"
        ) from error
    return c2pa
