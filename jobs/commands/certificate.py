"""`isnet config certificate DIR`: makes what signs filled pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.cli.main import emit


def certificate(args: argparse.Namespace) -> int:
    """Makes certificates of one's own, and a key."""
    from isnet.images.certificates import make_certificates
    from isnet.images.provenance import CERTIFICATES

    folder = Path(args.folder).expanduser().resolve()
    expires = make_certificates(folder, args.organisation)
    text = (
        f"{folder}: made, valid until {expires:%Y-%m-%d}\n"
        f'to sign with them, in a context of isnet.toml: provenance = "{folder}"\n'
        f"to have others believe it, give them {folder / CERTIFICATES}; no authority vouches for it"
    )
    emit(args, {"folder": str(folder), "expires": expires.isoformat(), "organisation": args.organisation}, text)
    return 0
