"""Checks the package of a version before it is promoted.

No code of a package is run here unless it is this installation's, byte for byte: a user who may register a version must
not run code with the rights of the one who promotes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import isnet
from jobs.registry import golden
from jobs.registry.model_signature import check_signed
from jobs.registry.register import LICENCE
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import RunFailed, UserError
from trainplane.registry.gates import PackageCheck
from trainplane.registry.package import data_of, download
from trainplane.registry.package_code import foreign_code
from trainplane.registry.smoke_test import probe
from trainplane.registry.versions import ModelVersion
from trainplane.tracking.client import reason

# Module that serves a registered model; its name is stored in the packages.
LOADER = "isnet.served"


def check_package(
    context: Context, version: ModelVersion, *, trusted_code: Sequence[str] = (), signed_by: Sequence[str] = ()
) -> dict[str, PackageCheck]:
    """Checks the package of a version, as far as possible.

    Args:
        context: home folder with the cache of packages.
        version: version to check.
        trusted_code: digests of code that may be run beside this installation's own.
        signed_by: files of public keys, one of which must have signed the package.

    Returns:
        Checks by name: artifact, signature, licence, signed, loads, golden. Only those that were reached.
    """
    # Not from the cache: the files that MLflow has now are checked.
    try:
        folder = download(version, context.home / "cache" / "models", again=True)
    except (RunFailed, UserError) as error:
        return {"artifact": PackageCheck(False, str(error))}
    checks = {
        "artifact": PackageCheck(True, f"all files have the digest that was registered, {folder.name[:12]}"),
        "signature": _signature(folder),
        "licence": _licence(folder),
    }
    if signed_by:
        checks["signed"] = check_signed(context, version, folder, signed_by)
    # Loading it would run the code it brings.
    installed = {"isnet": Path(str(isnet.__file__)).parent}
    fault = foreign_code(folder, loader_module=LOADER, installed=installed, trusted=trusted_code)
    if fault is not None:
        return checks | {"loads": PackageCheck(False, f"it was not loaded, and no code of it was run: {fault}")}
    # A fresh process loads the package and answers the golden requests, or any request if there are none.
    pictures = golden.read(data_of(folder))
    rows = [{name: row[name] for name in ("image", "mask")} for row in pictures] or golden.requests()[:1]
    outcome = probe(folder, rows, loader_module=LOADER)
    if outcome.error is not None:
        return checks | {"loads": PackageCheck(False, f"it does not answer in a fresh process: {outcome.error}")}
    # The package must bring its own code: this project may be absent where it runs.
    is_own = outcome.code is not None and Path(outcome.code).resolve().is_relative_to(folder.resolve())
    times = f"loaded in {outcome.seconds['load']:.2f} s, first answer after {outcome.seconds['first']:.2f} s more"
    code = "its own code" if is_own else f"code from {outcome.code}, not from the package"
    checks["loads"] = PackageCheck(
        is_own and len(outcome.answers) == len(rows), f"a fresh process {times}, with {code}", outcome.seconds
    )
    # The rules decide how large the difference may be.
    if not pictures:
        checks["golden"] = PackageCheck(False, "the package has no golden pictures; register the checkpoint again")
    else:
        worst = golden.largest_difference(pictures, outcome.answers)
        difference = "no comparable picture" if worst is None else f"{worst:g}"
        evidence = f"{len(pictures)} golden pictures differ by {difference}"
        checks["golden"] = PackageCheck(None, evidence, {"largest_difference": worst})
    return checks


def _signature(folder: Path) -> PackageCheck:
    from mlflow.models import Model

    try:
        signature = Model.load(str(folder)).signature
    # MLflow raises anything for a description that somebody wrote by hand.
    except Exception as error:
        return PackageCheck(False, f"its MLmodel cannot be read ({reason(error)}); register the checkpoint again")
    if signature is None or signature.inputs is None or signature.outputs is None:
        return PackageCheck(
            False, "the version has no signature, so its inputs are unknown; register the checkpoint again"
        )
    names = signature.inputs.input_names()
    if names != ["image", "mask"]:
        return PackageCheck(False, f"its signature takes {names}, need image and mask; register the checkpoint again")
    return PackageCheck(True, f"takes {' and '.join(names)}, gives {' and '.join(signature.outputs.input_names())}")


def _licence(folder: Path) -> PackageCheck:
    try:
        text = (data_of(folder) / LICENCE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        return PackageCheck(False, f"the package has no {LICENCE}; register it with --licence FILE")
    return PackageCheck(True, f"{LICENCE}: {text.splitlines()[0].strip()[:80]}")


def check_card(version: ModelVersion) -> PackageCheck:
    """Checks that the model card describes the recorded evaluation."""
    writer = command_line("models", "card", version.name, version.version)
    if version.card_digest is None:
        return PackageCheck(False, f"there is no model card; `{writer}` writes it")
    if version.card_of != (version.evaluation_digest or "none"):
        return PackageCheck(False, f"the card is of another evaluation; `{writer}` writes a new one")
    return PackageCheck(True, f"card {version.card_digest[:12]} is of this evaluation")
