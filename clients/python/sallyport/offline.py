"""Strings that cannot be live tokens, so that no server need be asked."""

import re
import zlib
from collections.abc import Sequence

CHECKED_PREFIXES = ("sp_",)
"""The prefixes whose strings have a checksum, unless a checker is told others."""

_LONGEST = 4096
_CRC_DIGITS = 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}")  # a prefix, then kid, tag, secret and CRC-32


def refused_offline(token: str, checked_prefixes: Sequence[str] = CHECKED_PREFIXES) -> bool:
    """True if the string cannot be a live token."""
    if token == "" or len(token) > _LONGEST:
        return True
    if token.startswith(tuple(checked_prefixes)):
        return not _has_shape(token)
    return False


def _has_shape(token: str) -> bool:
    if _SHAPE.fullmatch(token) is None:
        return False
    rest = zlib.crc32(token[:-_CRC_DIGITS].encode())
    digits = ""
    for _ in range(_CRC_DIGITS):
        rest, digit = divmod(rest, 62)
        digits = _DIGITS[digit] + digits
    return token[-_CRC_DIGITS:] == digits
