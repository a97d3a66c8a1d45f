"""Arguments of `isnet evaluate`, `isnet inpaint` and `isnet models`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import MODEL_HELP, command, count, group, whole
from jobs.cli.parsers import serve

_EVALUATE = "isnet evaluate [-h] [options] MODEL [MODEL …] DATASET"

# Two is jobs.cluster.worker_pool.TASKS_PER_GPU, which is not imported here: help answers at once.
_IN_A_JOB = "default: 0; in a job of a cluster two for each of its GPUs, without GPUs one for each processor"


def evaluate(commands: Any) -> None:
    """Adds `isnet evaluate`."""
    parser = command(
        commands,
        "evaluate",
        "commands.evaluate:evaluate",
        "the table by hole ratio, of one model or many",
        usage=_EVALUATE,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MODEL… DATASET",
        help=f"models, the main one first, each as MODEL or NAME=MODEL; then the held-out dataset. MODEL: {MODEL_HELP}",
    )
    parser.add_argument(
        # The list of pairs: the same for all models.
        "--masks",
        default="irregular",
        help="a generator's name or a mask dataset (default: irregular)",
    )
    parser.add_argument("--size", type=count, metavar="PX", help="side of the centre square (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="of the fixed list of masks, default 0")
    parser.add_argument(
        "--definition",
        choices=("isnet", "edge_connect", "skimage"),
        default="isnet",
        help="of PSNR, SSIM and L1",
    )
    parser.add_argument(
        "--paper",
        choices=("places2", "celeba"),
        help="set the paper's table of this test set beside ours, by each row's own definition, at 256 px; with it, "
        "scikit-image's definition",
    )
    parser.add_argument("--pictures", type=count, metavar="N", help="measure on N of them, evenly drawn (default: all)")
    parser.add_argument("--lpips", choices=("alex", "vgg"), help="also measure LPIPS, on AlexNet or on VGG16")
    parser.add_argument(
        "--refine",
        choices=("off", "auto"),
        default="off",
        help="auto: networks fill coarse to fine, as isnet inpaint does (default: off, at the square's own scale)",
    )
    parser.add_argument("--fid", action="store_true", help="also measure FID, P-IDS and U-IDS; needs 1,000 pictures")
    parser.add_argument(
        # How mask files become holes.
        "--mask-loading",
        choices=("nearest", "legacy-png", "legacy-jpeg"),
        default="nearest",
        help="legacy: as the author's loader, which shrinks holes (default: nearest)",
    )
    parser.add_argument("--mask-study", action="store_true", help="also measure the effect of the way of loading masks")
    parser.add_argument(
        "--parallel",
        type=whole,
        metavar="N",
        help=f"processes of Ray; 0: this one ({_IN_A_JOB})",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the report (default: below ISNET_HOME)")


def inpaint(commands: Any) -> None:
    """Adds `isnet inpaint`."""
    parser = command(
        commands,
        "inpaint",
        "commands.inpaint:inpaint",
        "fill the hole of a picture, or of a folder of them",
        usage="isnet inpaint [-h] [options] IMAGE MASK -o OUT\n       isnet inpaint --check FILE",
    )
    # A picture, a folder, or prefixes of a store.
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a picture, a folder, or an s3:// prefix")
    parser.add_argument(
        "mask", metavar="MASK", nargs="?", help="white = hole; a file, or a folder with the pictures' names"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="file; folder or s3:// prefix for many")
    parser.add_argument("--check", metavar="FILE", help="instead: say how FILE says it was made, and if that is intact")
    parser.add_argument("--model", metavar="MODEL", help=f"{MODEL_HELP} (default: the only registered one, or starter)")
    parser.add_argument(
        "--parallel",
        type=whole,
        metavar="N",
        help=f"as a resumable job of N processes of Ray; 0: in this one ({_IN_A_JOB})",
    )
    # What is written, and what marks the hole.
    parser.add_argument("--raw", action="store_true", help="the network's whole prediction, not only inside the hole")
    parser.add_argument("--black-is-hole", action="store_true", help="black, not white, marks the hole")
    parser.add_argument("--resize-mask", action="store_true", help="stretch a mask of another size over the picture")
    # How the hole is filled.
    parser.add_argument(
        "--refine",
        choices=("auto", "off"),
        default="auto",
        help="auto: coarse to fine, at scales that the network knows; off: at the picture's own alone (default: auto)",
    )
    parser.add_argument("--grow", type=whole, default=0, metavar="PX", help="widen the hole on all sides (default: 0)")
    parser.add_argument(
        "--feather",
        type=whole,
        default=0,
        metavar="PX",
        help="fade the jump of colour at the border, inside the hole (default: 0)",
    )


def models(commands: Any) -> None:
    """Adds `isnet models`."""
    actions = group(commands, "models", "the registry: versions, gates, promotion")
    command(actions, "list", "commands.models:list_models", "registered models")
    show = command(actions, "show", "commands.models:show", "versions of a model: runs, evaluations, verdicts")
    show.add_argument("name", metavar="NAME")
    register = command(actions, "register", "commands.models:register", "make a run's last checkpoint a model version")
    # One run, or the best trial of a search.
    register.add_argument(
        "source", metavar="RUN", nargs="?", help="a run's id or its beginning, or a checkpoint's address"
    )
    register.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="settings that the search was started with"
    )
    register.add_argument("--from-search", metavar="SEARCH", help="the best trial of a search, instead of RUN")
    register.add_argument("--steps", type=count, metavar="N", help="continue that trial to N steps first")
    register.add_argument(
        "--seeds",
        type=count,
        default=1,
        metavar="N",
        help="train it with N seeds first and take the best",
    )
    register.add_argument("--name", default="isnet", help="registered model, default isnet")
    register.add_argument(
        # The licence gate refuses a version without one.
        "--licence",
        metavar="FILE",
        help="what may be done with the weights (default: the project's)",
    )
    promote = command(actions, "promote", "commands.models:promote", "move an alias to a version that passes its gates")
    promote.add_argument("name", metavar="NAME")
    promote.add_argument("version", metavar="VERSION", nargs="?", help="unless NAME has it: NAME/VERSION or NAME@ALIAS")
    promote.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    # What it must show, and on which pictures.
    promote.add_argument("--dataset", metavar="DATASET", help="held-out set (default: the one it was evaluated on)")
    promote.add_argument("--masks", metavar="MASKS", help="with --dataset: a generator's name or a mask dataset")
    promote.add_argument("--size", type=count, metavar="PX", help="with --dataset: side of the square measured on")
    promote.add_argument("--gates", metavar="FILE", help="YAML of rules, or a shipped name: default, small")
    # --expect guards against two promotions at once; --force passes the gates.
    promote.add_argument("--expect", metavar="VERSION", help="refuse unless this is the current one; 'none' for none")
    promote.add_argument("--force", metavar="REASON", help="move it although a gate refused; kept in the audit")
    promote.add_argument("--reason", default="", metavar="TEXT", help="kept in the audit")
    approve = command(
        actions,
        "approve",
        "commands.models:approve",
        "approve a version's promotion as a second person",
    )
    approve.add_argument("name", metavar="NAME")
    approve.add_argument("version", metavar="VERSION", nargs="?", help="unless NAME has it: NAME/VERSION or NAME@ALIAS")
    approve.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    approve.add_argument("--note", default="", metavar="TEXT", help="kept in the audit")
    card = command(
        actions, "card", "commands.models:card", "write a version's model card from the record, and print it"
    )
    card.add_argument("name", metavar="NAME")
    card.add_argument("version", metavar="VERSION", nargs="?", help="unless NAME has it: NAME/VERSION or NAME@ALIAS")
    golden = command(actions, "golden", "commands.models:golden", "pack the pictures that people marked under traffic")
    golden.add_argument("name", metavar="NAME")
    golden.add_argument("--from-traces", action="store_true", help="of `serve`: those marked golden, with their holes")
    golden.add_argument("--into", metavar="DEST", help="dataset (default: NAME-golden, and NAME-golden-masks)")
    golden.add_argument("--replace", action="store_true", help="replace sets of other content")
    serve.share_of_model(actions)
    for name, target, what, key in (
        ("sign", "commands.models:sign", "vouch for a version: sign its files by a private key", "private key"),
        ("verify", "commands.models:verify", "check who signed a version, on its files as they are", "public key"),
    ):
        signing = command(actions, name, target, what)
        signing.add_argument("name", metavar="NAME")
        signing.add_argument("version", metavar="VERSION", nargs="?", help="unless NAME has it: NAME/VERSION")
        signing.add_argument("--key", required=True, metavar="FILE", help=f"{key} of elliptic curves, PEM")
    export = command(
        actions, "export", "commands.models:export", "a version as ONNX, or as a page that fills offline in a browser"
    )
    export.add_argument("model", metavar="MODEL", help="NAME@ALIAS, NAME/VERSION or starter")
    export.add_argument("--to", choices=("onnx", "page"), required=True, help="a file, or a folder with index.html")
    export.add_argument("-o", "--output", metavar="PATH", help="file or folder that is not there (default: by MODEL)")
    export.add_argument(
        "--runtime",
        metavar="PATH",
        help="of a page: what `npm pack onnxruntime-web@1.30.0` wrote, or its folder dist",
    )
    # The way back needs no gates.
    rollback = command(actions, "rollback", "commands.models:rollback", "return to the previous version")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--to", default="production", metavar="ALIAS", help="default production")
    rollback.add_argument("--reason", default="rollback", metavar="TEXT", help="kept in the audit")
    audit = command(actions, "audit", "commands.models:audit", "every move of a model's aliases")
    audit.add_argument("name", metavar="NAME")
    audit.add_argument("--verify", action="store_true", help="check the chain, and that aliases agree with it")
