#!lua
-- Commits batches, each whole. Without the flag `allow-oom`, Redis refuses the script before its first step if memory
-- is full.
--
-- ARGV: the epoch and the position that the caller knows, a name in case a new epoch begins, the four bounds of
-- retention, how long answers count (ms), and the batches: {drafts, key, fingerprint} each; a draft is
-- {topic, type, json, data, size}. Returns, for each batch, {epoch, first seq, count}, with "again" if it was committed
-- before under its key, or `false` if its key was used for another request; then the oldest seq and the sum of the
-- retained sizes.
local newest_known, written, new_epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = now()
local last, last_time = last_seq()
local first
if is_other(last, newest_known, written) then
  begin_epoch(new_epoch, last)
end
local epoch = epoch_of(call('LINDEX', epochs, -1))
local known = call('HMGET', state, 'end', 'last_time')
local size = tonumber(known[1] or 0)
-- The times of events never go back, whatever the clock does, and whichever machine's clock it is.
local time_text = text(math.max(time, last_time, tonumber(known[2] or 0)))

local function earlier_answer(key, fingerprint)
  local answer = call('HGET', answers, key)
  if not answer or tonumber(call('ZSCORE', expiries, key)) <= time then
    return nil
  end
  local print, name, first, count = string.match(answer, '^(%x*) (%w+) (%d+) (%d+)$')
  if print ~= fingerprint then
    return false
  end
  return { name, tonumber(first), tonumber(count), 'again' }
end

-- Redis counts the seqs: if another client has set its count ahead, there is a hole.
local function commit(drafts)
  local begin
  for _, draft in ipairs(drafts) do
    last = seq_of(call('XADD', events, '0-*', 'epoch', epoch, 'time', time_text, 'start', text(size),
      'topic', draft[1], 'type', draft[2], 'json', draft[3], 'data', draft[4]))
    begin = begin or last
    size = size + draft[5]
  end
  first = first or begin
  return { epoch, begin, #drafts }
end

local given = {}
for place, batch in ipairs(cmsgpack.unpack(ARGV[9])) do
  local drafts, key, fingerprint = unpack(batch) -- an empty key means no key
  local answer
  if key ~= '' then
    answer = earlier_answer(key, fingerprint)
  end
  if answer == nil then
    answer = commit(drafts)
    if key ~= '' then
      call('HSET', answers, key, string.format('%s %s %.0f %.0f', fingerprint, unpack(answer)))
      call('ZADD', expiries, text(time + tonumber(ARGV[8])), key)
    end
  end
  given[place] = answer
end
if first then
  call('HSET', state, 'end', text(size), 'last', text(last), 'last_time', time_text)
end
local oldest, kept = retain(last, time, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), first)
return { given, oldest, kept }
