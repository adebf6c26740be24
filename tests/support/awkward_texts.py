"""Texts that a stream's framing could mistake, cut short or change: each is data like any other, in every form."""

from __future__ import annotations

AWKWARD = [
    "a\rb",
    "a\nb",
    "a\r\nb",
    "a\rb\nc\r\nd",
    "\r\n\r\n",
    "\n",
    "ends with a line\n",
    "ends with\r",
    " leading space",
    "  two",
    ":leading colon",
    ": leading colon",
    "id: 7",
    "data: x",
    "data: id: event:",
    "\u2028 and \u2029 and \x85",
    "line\u2028separator\u2029and\u0085next",
    "nul \0 inside",
    "\0",
    "\t\x0b\x0c\x1c",
    "\ufeffbom",
    "",
    "\u00e9\u65e5\u672c\U0001f600 and \u202e",
    "x" * 100_000,
]
