"""What goes wrong in a devstack, told so that a person can act on it."""


class DevstackError(Exception):
    """A component could not be started, reached or stopped; the message says which and why."""


class AlreadyRunningError(DevstackError):
    """Another supervisor holds this state directory."""


class CancelledError(DevstackError):
    """The start was interrupted, by Ctrl-C or by `atlas down`."""
