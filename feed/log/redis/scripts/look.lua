#!lua flags=no-writes
-- Returns the record: {epochs, whether the newest began on this server, last seq, oldest seq, the time of its commit,
-- now, the sum of the retained sizes, whether this server is a primary, when the next lease runs out or -1}.
return record(last_seq())
