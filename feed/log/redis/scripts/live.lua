#!lua flags=allow-oom
-- ARGV: the key of the nodes, the name of a node that lives, and the time (ms) after which a node without a sign of
-- life is forgotten.
local time = now()
call('ZADD', ARGV[1], text(time), ARGV[2])
call('ZREMRANGEBYSCORE', ARGV[1], '-inf', text(time - tonumber(ARGV[3])))
return 1
