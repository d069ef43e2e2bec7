"""Errors a person can act on. The command line prints them as one line, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user gave cannot be used: says what, where, what was expected and what to do. Exit code 2."""

    exit_code = 2


class BrokenBatch(UserError):
    """Data arrived that is too broken to go on with; its report was written. Exit code 3."""

    exit_code = 3


class Refused(UserError):
    """What was asked for may not be done, or was tried and undone; the reasons are said. Exit code 4."""

    exit_code = 4


class Interrupted(UserError):
    """The work was asked to stop and did, in a state from which it can go on. Exit code 143, as of SIGTERM."""

    exit_code = 143


def nearest(word: str, valid: Iterable[str]) -> str:
    """A hint such as `did you mean 'horizon'?`, or the list of valid words when none is near."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of: {', '.join(words)}" if words else "nothing is expected here"
