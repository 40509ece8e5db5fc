"""Files of a batch in S3, from where COPY takes them; each attempt has names of its own.

    {prefix}/{epoch}/{attempt}/{number}-{stage}.parquet
    {prefix}/{epoch}/{attempt}/{stage}.manifest

The epoch is that of the instance that writes: what a zombie still puts there never lies where its
successor looks. An attempt's name is random, so that a retry never reads files of the one before.
Files that nobody removes (we were killed) are swept by the next epoch, or by a lifecycle rule.
"""

import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError

from atlas_cdc_reconciler.config import RedshiftConfig
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_common.telemetry import logger

_DELETED_AT_ONCE_MAX = 1_000  # What S3 takes.
_SWEPT_MAX = 100_000
_ATTEMPTS = 4
_log = logger(__name__)


@dataclass(slots=True)
class StagedFiles:
    """Files that one COPY will take."""

    stage: str
    entries: list[tuple[str, int]] = field(default_factory=list)
    """(key, size in bytes): COPY of Parquet by manifest wants to know the size."""
    row_count: int = 0


class Bucket:
    """The part of a bucket that is ours. Blocks: run it in the writer's thread."""

    def __init__(self, config: RedshiftConfig) -> None:
        self._name = config.bucket
        self._prefix = config.prefix
        self._file_bytes_max = config.file_bytes_max
        self._client: Any = boto3.client(
            "s3",
            region_name=config.region,
            endpoint_url=config.s3_endpoint_url,
            config=ClientConfig(
                connect_timeout=5,
                read_timeout=config.s3_timeout_seconds,
                retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            ),
        )

    def attempt(self, epoch: int) -> "Attempt":
        """A new place for files. The number is padded: epochs sort as text."""
        return Attempt(self, f"{self._prefix}/{epoch:012d}/{secrets.token_hex(8)}")

    def sweep(self, epoch: int) -> int:
        """Delete what earlier epochs left, as far as it is bounded; returns how many files."""
        keys: list[str] = []
        for key in self._keys():
            if key >= f"{self._prefix}/{epoch:012d}/" or len(keys) >= _SWEPT_MAX:
                break
            keys.append(key)
        self.delete(keys)
        return len(keys)

    def put(self, key: str, body: bytes) -> None:
        """Store a file. Raises WarehouseError."""
        self._call("put_object", Key=key, Body=body)

    def delete(self, keys: list[str]) -> None:
        """Delete files; those that are gone are no error. Raises WarehouseError."""
        for first in range(0, len(keys), _DELETED_AT_ONCE_MAX):
            objects = [{"Key": key} for key in keys[first : first + _DELETED_AT_ONCE_MAX]]
            self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})

    def url(self, key: str) -> str:
        """As COPY names it."""
        return f"s3://{self._name}/{key}"

    def parquet_files(self, rows: pa.Table) -> Iterator[bytes]:
        """The rows as files of a bounded size before compression, so that slices load at once."""
        count = max(1, -(-rows.nbytes // self._file_bytes_max))
        height = max(1, -(-rows.num_rows // count))
        for first in range(0, rows.num_rows, height):
            file = io.BytesIO()
            pq.write_table(rows.slice(first, height), file, compression="snappy", version="1.0")
            yield file.getvalue()

    def _keys(self) -> Iterator[str]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=f"{self._prefix}/", **token)
            yield from (item["Key"] for item in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                Bucket=self._name, **arguments
            )
        except (BotoCoreError, ClientError) as error:
            raise WarehouseError(f"S3 bucket {self._name}: {error}") from error
        return answer


class Attempt:
    """The files of one attempt to store something."""

    def __init__(self, bucket: Bucket, directory: str) -> None:
        self._bucket = bucket
        self._directory = directory
        self._keys: list[str] = []

    def put_rows(self, files: StagedFiles, rows: pa.Table) -> None:
        """Put rows among the files. Raises WarehouseError."""
        for body in self._bucket.parquet_files(rows):
            key = f"{self._directory}/{len(files.entries):06d}-{files.stage}.parquet"
            self._put(key, body)
            files.entries.append((key, len(body)))
        files.row_count += rows.num_rows

    def put_manifest(self, files: StagedFiles) -> str:
        """Put the list of the files; returns its URL. Raises WarehouseError."""
        entries = [
            {"url": self._bucket.url(key), "mandatory": True, "meta": {"content_length": size}}
            for key, size in files.entries
        ]
        key = f"{self._directory}/{files.stage}.manifest"
        self._put(key, json.dumps({"entries": entries}).encode())
        return self._bucket.url(key)

    def remove(self) -> None:
        """Delete all of it. What cannot be deleted stays for the sweep."""
        keys, self._keys = self._keys, []
        try:
            self._bucket.delete(keys)
        except WarehouseError as error:
            _log.warning(
                "staged files are left behind", directory=self._directory, error=str(error)
            )

    def _put(self, key: str, body: bytes) -> None:
        self._keys.append(key)  # Before it is put: a put that seems to fail may have worked.
        self._bucket.put(key, body)
