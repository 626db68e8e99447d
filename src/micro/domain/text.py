"""Text that can be sent anywhere."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """The text with a replacement character for each lone surrogate, which UTF-8 has no place for.

    Python has them in the names of files that are not UTF-8, for one, and so in the words of exceptions about them.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
