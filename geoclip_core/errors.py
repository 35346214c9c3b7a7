"""Errors that callers catch."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message says which file and what to do."""


class BackboneError(ValueError):
    """A backbone that cannot be built; the message says which and what to do."""


class DownloadError(ValueError):
    """Something could not be fetched; the message is one plain sentence that says what to do."""


class PhotoError(ValueError):
    """A photo cannot be used; the message says which one and why, in one plain sentence."""


class DatasetError(ValueError):
    """A dataset that cannot be read; the message names file, column and row, and what to do."""
