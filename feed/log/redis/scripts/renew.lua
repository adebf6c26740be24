#!lua
-- Lets the value of a topic run out later. ARGV: the topic, after how many milliseconds, and how many leases there may
-- be. Returns "", "404" if the topic has no value, "429" if there are too many leases.
local topic, ttl = ARGV[1], tonumber(ARGV[2])
local seq = tonumber(call('ZSCORE', topics, topic) or 0)
local fields = seq > 0 and event_at(seq)
if not fields or fields[TYPE] == 'feed.deleted' then
  return '404'
end
if not call('ZSCORE', leases, topic) and call('ZCARD', leases) >= tonumber(ARGV[3]) then
  return '429'
end
call('ZADD', leases, text(now() + ttl), topic)
call('HSET', ttls, topic, text(seq) .. ' ' .. text(ttl))
return ''
