"""What each command of `latentloop` does: a dataclass of its options with a `run`."""
