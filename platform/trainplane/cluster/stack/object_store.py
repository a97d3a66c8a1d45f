"""What any object store of the stack has in common: its bucket, its keys, how it is reached."""

from __future__ import annotations

from collections.abc import Mapping

from trainplane.cluster.stack.layout import HOST, Part, Site

BUCKET = "isnet"
REGION = "us-east-1"


class Store(Part):
    """An S3 server on the port `store`."""

    name = "store"
    ports: tuple[str, ...] = ("store",)

    def address(self) -> str:
        return f"http://{HOST}:{self.port['store']}"

    def settle(self) -> None:
        """The bucket, made once."""
        from trainplane.storage.make_bucket import make_bucket

        make_bucket(
            BUCKET,
            endpoint=self.address(),
            keys=(self.site.secret("AWS_ACCESS_KEY_ID"), self.site.secret("AWS_SECRET_ACCESS_KEY")),
        )


def s3_environment(site: Site, port: Mapping[str, int]) -> dict[str, str]:
    """Variables that lead boto3, pyarrow and MLflow to the store."""
    endpoint = f"http://{HOST}:{port['store']}"
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": site.secret("AWS_ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": site.secret("AWS_SECRET_ACCESS_KEY"),
        "AWS_DEFAULT_REGION": REGION,
        # pyarrow sends trailing checksums by default, which Ceph's gateway of 2021 refuses.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }
