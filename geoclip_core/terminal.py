"""Print any name on any platform."""

import io
import sys


def use_utf8() -> None:
    """Write standard output and errors in UTF-8, with escapes where a stream cannot.

    Redirected output has the code page of the platform, which lacks most file and place names; one
    of them would end the command. A terminal keeps its encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
