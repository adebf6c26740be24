#!lua flags=no-writes
-- ARGV: a seq, and how many topics. Returns the next topics whose newest events are beyond it, in their order: names,
-- newest seqs and first seqs in turn.
local found = call('ZRANGEBYSCORE', topics, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local answer, names = {}, {}
for place = 1, #found, 2 do
  names[#names + 1] = found[place]
end
local first_seqs = #names > 0 and call('HMGET', firsts, unpack(names)) or {}
for place, name in ipairs(names) do
  local count = #answer
  answer[count + 1], answer[count + 2], answer[count + 3] = name, tonumber(found[2 * place]), tonumber(first_seqs[place] or 1)
end
return answer
