"""The `atlas` command line."""

from atlas_client.cli.root import main

__all__ = ["main"]
