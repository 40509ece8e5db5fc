"""Run a command that dies with its parent: python -I -S guard.py PARENT SIGNAL UID:GID|- COMMAND...

A stand-alone script of the standard library, replaced by the command it starts (exec), so it
costs no memory. It exists because the same cannot be done safely from `subprocess`: `preexec_fn`
may deadlock in a process with threads, and PR_SET_PDEATHSIG is cleared when the user changes, so
the two have to happen in this order and after the fork.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the command, as the account given, tied to the life of the parent."""
    parent, death_signal, account, *command = arguments
    if account != "-":
        uid, gid = (int(number) for number in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            sys.exit(f"guard: prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before prctl: then the signal will never come.
    if os.getppid() != int(parent):
        sys.exit("guard: the parent is gone")
    try:
        os.execv(command[0], command)  # noqa: S606 - the caller's own command.
    except OSError as error:
        sys.exit(f"guard: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
