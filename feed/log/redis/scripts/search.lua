#!lua flags=no-writes
-- ARGV: a time (ms), the oldest seq and the last one. Returns the seq of the first event committed then or later.
return first_with(TIME, tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
