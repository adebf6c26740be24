"""Read requests within bounds, and answer errors in the feed's own words (RFC 9457)."""
