"""Topics and patterns for Hypothesis: of so few names that they match each other often."""

from __future__ import annotations

from hypothesis import strategies as st

_SEGMENT = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join)
PATTERNS = st.builds(
    lambda segments, last: "/".join([*segments, *last]),
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3),
    st.sampled_from([[], ["**"]]),
) | st.just("**")
