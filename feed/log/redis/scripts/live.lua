#!lua flags=allow-oom
-- ARGV: the key of the nodes, the name of one that lives, and after how long (ms) without a sign one is forgotten.
local time = now()
call('ZADD', ARGV[1], text(time), ARGV[2])
call('ZREMRANGEBYSCORE', ARGV[1], '-inf', text(time - tonumber(ARGV[3])))
return 1
