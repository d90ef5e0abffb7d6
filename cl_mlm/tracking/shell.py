"""Commands and paths as a shell takes them: the lines that a user copies."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import PurePath


def shell_line(*words: str | PurePath) -> str:
    """Returns a command as bash and zsh take it: words that they would read otherwise are quoted.

    Args:
        words: of the command; a path that begins with a dash is written so that no command takes it for an option.
    """
    return " ".join(map(_word, words))


def _word(given: str | PurePath) -> str:
    word = str(given)
    if isinstance(given, PurePath) and word.startswith("-"):
        word = f"./{word}"
    if not _can_be_copied(word):
        return "$'" + "".join(map(_escaped, _bytes(word))) + "'"
    # zsh gives `=` at the start of a word a meaning that shlex does not know.
    return f"'{word}'" if word[:1] == "=" and "'" not in word else shlex.quote(word)


def _can_be_copied(word: str) -> bool:
    """Returns whether a word stands on one line of this process's terminal with all its characters."""
    if not word.isprintable():  # line breaks, and bytes of a path that are no text
        return False
    encodings = {getattr(stream, "encoding", None) or "utf-8" for stream in (sys.stdout, sys.stderr)}
    try:
        return all(word.encode(encoding) for encoding in encodings) or not word
    except (UnicodeEncodeError, LookupError):
        return False


def _bytes(word: str) -> bytes:
    try:
        return os.fsencode(word)
    except UnicodeEncodeError:  # the text of a config under a locale that does not know its characters
        return word.encode("utf-8", "surrogateescape")


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if 32 <= byte < 127 and character not in "'\\" else f"\\{byte:03o}"
