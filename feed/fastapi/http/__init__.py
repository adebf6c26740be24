"""Requests read within their bounds, and answers in the feed's own words (RFC 9457)."""
