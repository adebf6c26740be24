#!lua flags=no-writes
-- Returns the record: {epochs, whether the newest began on this server, last seq, oldest seq, the time of its commit,
-- now, the sum of the retained sizes, whether this server is a primary, when the next lease runs out or -1, what
-- `classes_now` says, and the settings of the classes; both empty where there are none}.
return record(last_seq())
