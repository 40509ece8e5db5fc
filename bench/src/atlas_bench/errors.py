"""What goes wrong with a benchmark, for people."""


class BenchError(Exception):
    """The benchmark cannot be run, or its result would mean nothing."""
