#!lua flags=no-writes
-- The record: {epochs, whether the newest is of this server, last seq, oldest seq, when that was committed, now,
-- the sizes of what is retained, together, whether this server is a primary}.
return record(last_seq())
