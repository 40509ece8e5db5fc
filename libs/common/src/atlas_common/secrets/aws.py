"""AWS Secrets Manager as a store. Needs the package's extra `aws`.

Secrets are named by name or ARN; an ARN says its region. What is read is the version AWSCURRENT,
which rotation makes the new one when that is good.
"""

import re
import threading
from typing import Any

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError

from atlas_common.config import AwsConfig
from atlas_common.secrets.file import SECRET_BYTES_MAX
from atlas_common.secrets.store import Secret

STAGE = "AWSCURRENT"
_ARN = re.compile(r"arn:[\w-]+:secretsmanager:([\w-]+):", re.ASCII)
_CODE = re.compile(r"\w{1,64}", re.ASCII)
_CALLS_MAX = 2


class SecretsManager:
    """As Store. Credentials are found as the AWS SDK finds them: of the task, pod or machine."""

    def __init__(self, config: AwsConfig) -> None:
        self._config = config
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()

    def fetch(self, name: str) -> Secret:
        """As Store."""
        try:
            answer = self._client(name).get_secret_value(SecretId=name, VersionStage=STAGE)
        except ClientError as error:
            raise ValueError(f"AWS answers {_code(error)}") from None
        except BotoCoreError as error:  # Its text may hold addresses.
            raise ValueError(f"no answer of AWS: {type(error).__name__}") from None
        text = answer.get("SecretString")
        if not isinstance(text, str):
            raise ValueError("the secret is no text")  # noqa: TRY004 - of an answer.
        if len(text.encode()) > SECRET_BYTES_MAX:
            raise ValueError(f"larger than {SECRET_BYTES_MAX} bytes")
        return Secret(text)

    def _client(self, name: str) -> Any:
        arn = _ARN.match(name)
        region = arn[1] if arn else self._config.region
        with self._lock:  # The making of clients is not safe in threads; their use is.
            if region not in self._clients:
                self._clients[region] = boto3.client(
                    "secretsmanager",
                    region_name=region,
                    endpoint_url=self._config.endpoint_url,
                    config=ClientConfig(
                        connect_timeout=self._config.timeout_seconds,
                        read_timeout=self._config.timeout_seconds,
                        retries={"mode": "standard", "total_max_attempts": _CALLS_MAX},
                    ),
                )
            return self._clients[region]


def _code(error: ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else "an error"
