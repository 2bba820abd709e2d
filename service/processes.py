"""What the processes of a service agree on: how one ends that cannot be started, and whose the files are."""

# What a process ends with when starting it again cannot help.
MISCONFIGURED = 2
# What a process makes is its user's alone.
UMASK = 0o077
