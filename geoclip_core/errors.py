"""Errors for callers to catch. Each message is one sentence that names the cause and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message names the file."""


class BackboneError(ValueError):
    """A backbone cannot be built; the message names it."""


class DownloadError(ValueError):
    """A model or dataset cannot be downloaded; what was there before is unchanged."""


class PhotoError(ValueError):
    """A photo cannot be used; the message names it."""


class DatasetError(ValueError):
    """A dataset cannot be read; the message names file, column and row."""
