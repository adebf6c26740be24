"""`feed doctor`: a feed looked at from the outside, through whatever stands in front of it, and in words what is wrong
with the way there and how to cure it.

Each module is a group of checks, in two halves: what gathers facts by asking (`look_…`), and pure functions from facts
to findings (`judge_…`). `examination` runs all of them at once, `target` is how they ask. Whatever another machine says
is bounded where it is read, and nothing is published but to one topic of the doctor's own.
"""
