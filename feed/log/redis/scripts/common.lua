-- The shared part of the scripts. It is put into each of them after the first line.
--
-- events   a stream: each event is one entry, with the ids 0-1, 0-2, 0-3 …
-- epochs   a list, oldest first: "<name> <first seq>", or "<name> <first seq> lossy" if events that stood there before
--          are known to be gone
-- state    a hash: `server` is the server on which the newest epoch began; `end` is the sum of the sizes of all events
--          ever; `last` and `last_time` are the seq and the time of the newest event; `oldest`, `oldest_start` and
--          `oldest_time` describe the oldest retained event
-- answers  a hash: the answer to each idempotency key; `expiries` (a sorted set) says until when an answer counts
-- topics   a sorted set: each topic that has events, by the seq of its newest one; `firsts` (a hash) has the seqs of the
--          first ones, or lower ones where those are gone. `topics` in `state` tells that both are complete
-- leases   a sorted set: the topics whose values run out, by the time when; `ttls` (a hash) has "<seq> <ttl>", the event
--          that gave the value and after how many milliseconds it runs out
local events, epochs, state, answers, expiries, topics, firsts, leases, ttls = unpack(KEYS)

-- Beyond the first bound, epochs without retained events go; beyond the second, the oldest go with their events.
local MAX_EPOCHS, MAX_EPOCHS_WITH_EVENTS = 1000, 10000

-- Beyond this a number in Lua cannot be counted up by one any more.
local MAX_SEQ = 2 ^ 53

local function foreign()
  error({ err = 'FOREIGN ' .. events .. ' is not a stream of this program' })
end

-- `redis.call` whose error names the command if Redis does not know or does not allow it.
local function call(command, ...)
  local answer = redis.pcall(command, ...)
  local refused = type(answer) == 'table' and answer.err
  if not refused then
    return answer
  end
  if string.find(refused, 'Unknown Redis command', 1, true) then
    error({ err = 'UNKNOWN ' .. command })
  end
  if string.find(refused, '^NOPERM') or string.find(refused, "can't run this command", 1, true) then
    error({ err = 'FORBIDDEN ' .. command })
  end
  if string.find(refused, 'equal or smaller', 1, true) or string.find(refused, 'exhausted', 1, true) then
    foreign() -- another client has set the stream's count so far that no seq can follow
  end
  error(answer)
end

local function text(number)
  return string.format('%.0f', number)
end

local function seq_of(id)
  local seq = tonumber(string.match(id, '^0%-(%d+)$'))
  if not seq or seq >= MAX_SEQ then
    foreign()
  end
  return seq
end

local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Redis takes a new replication id whenever its history may have changed: at each start of a master, when a replica is
-- promoted, and when it copies another server's data. Returns the id, and whether this server is a master.
local function server_now()
  local replication = call('INFO', 'replication')
  return string.match(replication, 'master_replid:(%x+)'), string.match(replication, 'role:(%a+)') == 'master'
end

-- The fields of an entry, as `append` writes them: epoch, time, start, topic, type, json, data.
local FIELDS, EPOCH, TIME, START, TOPIC, TYPE = 14, 2, 4, 6, 8, 10

-- Another program may have written into the stream. Its entries are skipped: a hole among the events.
local function is_ours(entry)
  local fields = entry[2]
  return #fields == FIELDS and fields[1] == 'epoch' and tonumber(fields[TIME]) and tonumber(fields[START])
end

local function event_at(seq)
  local id = '0-' .. text(seq)
  local entry = call('XRANGE', events, id, id)[1]
  return entry and is_ours(entry) and entry[2]
end

-- Note the newest events of topics: names and seqs in turn in `pairs_`, and the first seqs by name.
local function note_topics(pairs_, first_seqs)
  for place = 1, #pairs_, 1000 do
    if call('ZADD', topics, unpack(pairs_, place, math.min(place + 999, #pairs_))) > 0 then
      for each = place + 1, math.min(place + 999, #pairs_), 2 do
        call('HSETNX', firsts, pairs_[each], text(first_seqs[pairs_[each]]))
      end
    end
  end
end

-- Forget some of the topics whose newest event is gone.
local function forget_topics(oldest)
  local gone = call('ZRANGEBYSCORE', topics, '-inf', '(' .. text(oldest), 'LIMIT', 0, 500)
  if #gone > 0 then
    call('ZREM', topics, unpack(gone))
    call('HDEL', firsts, unpack(gone))
  end
end

-- Make the index of a log that has none: an older program has written it.
local function index_topics()
  if call('HGET', state, 'topics') then
    return
  end
  local from = '-'
  repeat
    local entries, newest, first_seqs, flat = call('XRANGE', events, from, '+', 'COUNT', 1000), {}, {}, {}
    for _, entry in ipairs(entries) do
      if is_ours(entry) then
        local topic, seq = entry[2][TOPIC], seq_of(entry[1])
        newest[topic], first_seqs[topic] = seq, first_seqs[topic] or seq
      end
    end
    for topic, seq in pairs(newest) do
      flat[#flat + 1], flat[#flat + 2] = text(seq), topic
    end
    note_topics(flat, first_seqs)
    from = #entries > 0 and '(' .. entries[#entries][1]
  until #entries < 1000
  call('HSET', state, 'topics', '1')
end

-- The newest seq that was ever given in this stream, even if its event was deleted.
local function last_given()
  if call('EXISTS', events) == 0 then
    return 0
  end
  local stream = call('XINFO', 'STREAM', events)
  for place = 1, #stream, 2 do
    if stream[place] == 'last-generated-id' then
      return seq_of(stream[place + 1])
    end
  end
end

-- The newest seq and the time of its event. `last_given` is asked only if another client has written or deleted.
local function last_seq()
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  local seq = newest and seq_of(newest[1])
  if seq ~= tonumber(call('HGET', state, 'last') or -1) then
    seq = last_given()
  end
  return seq, newest and is_ours(newest) and tonumber(newest[2][TIME]) or 0
end

local function epoch_of(entry)
  local name, first, rest = string.match(entry, '^(%w+) (%d+)(.*)$')
  return name, tonumber(first), rest == ' lossy'
end

-- The first event from `low` on, up to `high`.
local function first_from(low, high)
  local from, count = '0-' .. text(low), 1
  while true do
    local entries = call('XRANGE', events, from, '0-' .. text(high), 'COUNT', count)
    for _, entry in ipairs(entries) do
      if is_ours(entry) then
        return entry
      end
    end
    if #entries < count then
      return nil
    end
    from, count = '(' .. entries[#entries][1], 100
  end
end

-- The first of the events from `low` to `high` whose field at `place` is at least `bound`; `high + 1` if none is.
local function first_with(place, bound, low, high)
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local entry = first_from(middle, high)
    if entry and tonumber(entry[2][place]) < bound then
      low = seq_of(entry[1]) + 1
    else
      high = middle - 1
    end
  end
  return low
end

local function note_oldest(last, size, time)
  local entry = first_from(0, last)
  local oldest, start = last + 1, size
  if entry then
    oldest, start, time = seq_of(entry[1]), tonumber(entry[2][START]), tonumber(entry[2][TIME])
  end
  call('HSET', state, 'oldest', text(oldest), 'oldest_start', text(start), 'oldest_time', text(time))
  return oldest, start, time
end

-- Whether a new epoch has to begin: the log is new, or Redis is another server than before, or events are gone that
-- were in the record, or that a caller knows who knows of no newer epoch.
local function is_other(last, newest_known, written)
  local newest = call('LINDEX', epochs, -1)
  local values = call('HMGET', state, 'server', 'last')
  if not newest or values[1] ~= (server_now()) or last < tonumber(values[2] or 0) then
    return true
  end
  local name, first = epoch_of(newest)
  return first > last + 1 or (name == newest_known and last < written)
end

-- Whether the epoch at a place may be forgotten: it covers nothing from `oldest` on, or the next one begins at the same
-- seq and tells of a loss if this one does. Readers from before a lossy epoch have to be told of the loss.
local function is_spare(entries, place, oldest)
  local following = entries[place + 1]
  if not following then
    return false
  end
  local _, first, is_lossy = epoch_of(entries[place])
  local _, first_of_next, next_is_lossy = epoch_of(following)
  return first_of_next <= oldest or (first_of_next == first and (next_is_lossy or not is_lossy))
end

-- Forget epochs beyond the bounds, the oldest first.
local function forget_epochs(oldest, last, size)
  local count = call('LLEN', epochs)
  if count <= MAX_EPOCHS then
    return
  end
  local entries, kept = call('LRANGE', epochs, 0, -1), {}
  for place, entry in ipairs(entries) do
    if count > MAX_EPOCHS and is_spare(entries, place, oldest) then
      count = count - 1
    else
      kept[#kept + 1] = entry
    end
  end
  local from = math.max(1, #kept + 1 - MAX_EPOCHS_WITH_EVENTS)
  if from > 1 then
    call('XTRIM', events, 'MINID', '0-' .. text(select(2, epoch_of(kept[from]))))
    note_oldest(last, size, now())
  end
  if from > 1 or #kept < #entries then
    call('LTRIM', epochs, 1, 0) -- empties it
    for place = from, #kept, 500 do
      call('RPUSH', epochs, unpack(kept, place, math.min(place + 499, #kept)))
    end
  end
end

-- Let all leases run for their full time again.
local function renew_leases()
  local time, all = now(), call('HGETALL', ttls)
  for place = 1, #all, 2 do
    call('ZADD', leases, text(time + tonumber(string.match(all[place + 1], '(%d+)$'))), all[place])
  end
end

local function begin_epoch(name, last)
  local newest = call('LINDEX', epochs, -1)
  while newest and select(2, epoch_of(newest)) > last + 1 do
    call('RPOP', epochs) -- all events of this epoch are gone, and its ids must not be mistaken for those of others
    newest = call('LINDEX', epochs, -1)
  end
  local values = call('HMGET', state, 'last', 'end')
  local is_lossy = last < tonumber(values[1] or 0)
  call('RPUSH', epochs, name .. ' ' .. text(last + 1) .. (is_lossy and ' lossy' or ''))
  call('HSET', state, 'server', (server_now()), 'last', text(last))
  call('ZREMRANGEBYSCORE', topics, '(' .. text(last), '+inf')
  renew_leases()
  local size = tonumber(values[2] or 0)
  forget_epochs(note_oldest(last, size, now()), last, size)
end

-- Remove the events that retention does not keep, and the answers that have expired. Returns the oldest seq and the sum
-- of the sizes that are kept. `first` is the seq of the first event committed just now, if there is one.
local function retain(last, time, max_events, max_bytes, max_age, max_answers, first)
  local values = call('HMGET', state, 'end', 'oldest', 'oldest_start', 'oldest_time')
  local size = tonumber(values[1] or 0)
  local oldest, start, since = tonumber(values[2]), tonumber(values[3]), tonumber(values[4])
  local keep = math.max(oldest, last + 1 - max_events)
  if size - start > max_bytes then
    keep = first_with(START, size - max_bytes, keep, last)
  end
  if keep <= last and since < time - max_age then
    keep = first_with(TIME, time - max_age, keep, last)
  end
  if keep > oldest then
    call('XTRIM', events, 'MINID', '0-' .. text(keep))
    oldest, start = note_oldest(last, size, time)
    forget_topics(oldest)
  elseif oldest == first then
    note_oldest(last, size, time) -- the log was empty: its times were those of when it became so
  end
  local gone = call('ZRANGEBYSCORE', expiries, '-inf', time, 'LIMIT', 0, 100)
  local beyond = call('ZCARD', expiries) - #gone - max_answers
  if beyond > 0 then
    gone = call('ZRANGE', expiries, 0, #gone + math.min(beyond, 100) - 1)
  end
  if #gone > 0 then
    call('ZREM', expiries, unpack(gone))
    call('HDEL', answers, unpack(gone))
  end
  return oldest, size - start
end

local function record(last)
  local values = call('HMGET', state, 'server', 'oldest', 'oldest_time', 'end', 'oldest_start')
  local entry = call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local there = entry and seq_of(entry[1]) or last + 1 -- another client may have trimmed the stream
  local server, is_primary = server_now()
  return {
    call('LRANGE', epochs, 0, -1),
    values[1] == server and 1 or 0,
    last,
    math.max(there, tonumber(values[2] or 0)),
    entry and is_ours(entry) and tonumber(entry[2][TIME]) or tonumber(values[3] or 0),
    now(),
    tonumber(values[4] or 0) - tonumber(values[5] or 0),
    is_primary and 1 or 0,
    tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2] or -1),
  }
end
