#!lua flags=no-writes
-- ARGV: a seq, and how many topics. Returns the next topics whose newest events are beyond it, in their order: names,
-- newest seqs, first seqs, and whether the newest is a tombstone that its class keeps (0 or 1), in turn. Then what
-- `classes_now` says, if there are classes.
local found = call('ZRANGEBYSCORE', topics, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local answer, names = {}, {}
for place = 1, #found, 2 do
  names[#names + 1] = found[place]
end
local held = classes_if_any()
local first_seqs = #names > 0 and call('HMGET', firsts, unpack(names)) or {}
for place, name in ipairs(names) do
  local count, value = #answer, held and value_of(name)
  answer[count + 1], answer[count + 2] = name, tonumber(found[2 * place])
  answer[count + 3], answer[count + 4] = tonumber(first_seqs[place] or 1), value and value.is_ended and 1 or 0
end
return { answer, held and classes_now(held, last_seq()) or nil }
