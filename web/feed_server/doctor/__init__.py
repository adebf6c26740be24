"""`feed doctor`: check a feed from outside, through everything that stands in front of it, and say what is wrong and
how to cure it.

Each module is a group of checks in two halves: functions that gather facts by requests (`look_…`), and pure functions
from facts to findings (`judge_…`). `examination` runs all groups at once, `target` sends the requests. Whatever another
machine answers is bounded where it is read, and events are published only to one topic of the doctor's own.
"""
