#!lua
-- Commits batches, each whole. Without `allow-oom` Redis refuses it before its first step if there is no memory.
--
-- ARGV: the epoch and the position that the caller knows, a name should a new epoch begin, the four bounds of
-- retention, how long answers count (ms), and the batches: {drafts, key, fingerprint} each, a draft being
-- {topic, type, json, data, size}. Gives {epoch, first seq, count} for each batch, with "again" where it was committed
-- before under its key, `false` where its key was used for another; and the oldest seq and the sizes of what is retained, together.
local newest_known, written, new_epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = now()
local time_text = text(time)
local last = last_seq()
local first = last + 1
if is_other(last, newest_known, written) then
  begin_epoch(new_epoch, last)
end
local epoch = epoch_of(redis.call('LINDEX', epochs, -1))
local size = tonumber(redis.call('HGET', state, 'end') or 0)

local function earlier_answer(key, fingerprint)
  local answer = redis.call('HGET', answers, key)
  if not answer or tonumber(redis.call('ZSCORE', expiries, key)) <= time then
    return nil
  end
  local print, name, first, count = string.match(answer, '^(%x*) (%w+) (%d+) (%d+)$')
  if print ~= fingerprint then
    return false
  end
  return { name, tonumber(first), tonumber(count), 'again' }
end

local function commit(drafts)
  for _, draft in ipairs(drafts) do
    redis.call('XADD', events, '0-*', 'epoch', epoch, 'time', time_text, 'start', text(size),
      'topic', draft[1], 'type', draft[2], 'json', draft[3], 'data', draft[4])
    size = size + draft[5]
  end
  local answer = { epoch, last + 1, #drafts }
  last = last + #drafts
  return answer
end

local given = {}
for place, batch in ipairs(cmsgpack.unpack(ARGV[9])) do
  local drafts, key, fingerprint = unpack(batch) -- no key is an empty one
  local answer
  if key ~= '' then
    answer = earlier_answer(key, fingerprint)
  end
  if answer == nil then
    answer = commit(drafts)
    if key ~= '' then
      redis.call('HSET', answers, key, string.format('%s %s %.0f %.0f', fingerprint, unpack(answer)))
      redis.call('ZADD', expiries, text(time + tonumber(ARGV[8])), key)
    end
  end
  given[place] = answer
end
redis.call('HSET', state, 'end', text(size))
local oldest, kept = retain(last, time, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]),
  first <= last and first or nil)
return { given, oldest, kept }
