"""Command that creates a bucket: `python -m trainplane.storage.make_bucket s3://NAME`.

An existing bucket stays. Address and keys come from the usual AWS variables. For self-hosted stores (the local stack,
compose.yaml); the owner of a cloud account creates a bucket there with its policies (infra/s3).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from trainplane.errors import RunFailed, UserError


def make_bucket(
    name: str, *, endpoint: str | None = None, keys: tuple[str, str] | None = None, timeout_s: float = 60.0
) -> None:
    """Creates a bucket; waits for a store that is starting.

    `endpoint` and `keys` (access, secret) override the environment.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    # A store that has just started answers 5xx or nothing at all. One attempt per request leaves the deadline to the
    # loop below.
    config = Config(
        retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, s3={"addressing_style": "path"}
    )
    access, secret = keys or (None, None)
    client = boto3.client(
        "s3",
        config=config,
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
    )
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client.create_bucket(Bucket=name)
            return
        except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            return
        except (BotoCoreError, ClientError) as error:
            # Wrong keys or a wrong name will not become right: only other errors are retried.
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName"):
                raise UserError(
                    f"bucket {name!r} cannot be made: the store answers {code}; correct keys or name"
                ) from error
            if time.monotonic() > deadline:
                raise RunFailed(f"bucket {name!r} could not be made within {timeout_s:.0f} s: {error}") from error
            time.sleep(0.2)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    if len(argv) != 1 or not argv[0].startswith("s3://") or "/" in argv[0].removeprefix("s3://").rstrip("/"):
        print("usage: python -m trainplane.storage.make_bucket s3://NAME", file=sys.stderr)
        return 2
    try:
        make_bucket(argv[0].removeprefix("s3://").rstrip("/"))
    except (UserError, RunFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
