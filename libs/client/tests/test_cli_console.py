"""What `atlas console` refuses before it listens."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from atlas_client.cli.root import build

ELSEWHERE = ("--query", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--listen", "0.0.0.0:7080"), "in the clear: give --listen-certificate"),
        (("--listen", "[::]:7080"), "in the clear: give --listen-certificate"),
        (("--listen", "console.example:7080"), "in the clear: give --listen-certificate"),
        (("--listen", "7080"), "is not host:port"),
        (("--listen-certificate", "tls.crt"), "belong together"),
    ],
)
def test_tokens_do_not_cross_a_network_in_the_clear(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(build(), ["console", *ELSEWHERE, *arguments])
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    files = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    for file in files:
        file.write_text("nothing of the kind")
    arguments = ["--listen-certificate", str(files[0]), "--listen-key", str(files[1])]
    done = CliRunner().invoke(build(), ["console", *ELSEWHERE, *arguments])
    assert (done.exit_code, str(files[0]) in done.stderr) == (2, True)
