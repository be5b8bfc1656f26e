"""The error that a user can correct. It imports nothing, so that commands which need no JAX start at once."""


class UserError(Exception):
    """An error the user can correct: one sentence with the file, key or value and what to do. The CLI exits with 2."""
