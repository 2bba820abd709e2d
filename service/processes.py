"""What the processes of a service agree on: how one ends that cannot be started, and whose the files are."""

import sys

# What a process ends with when starting it again cannot help.
MISCONFIGURED = 2
# What a process makes is its user's alone.
UMASK = 0o077


def failed(problem: str, status: int = MISCONFIGURED) -> int:
    """Say why a process cannot be started; gives what it ends with."""
    sys.stderr.write(f"actd: {problem}\n")
    return status
