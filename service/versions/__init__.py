"""The versions of a policy: how one is run, which one decides, and whether it may."""
