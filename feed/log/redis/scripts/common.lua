-- What the scripts share. Put in front of each of them, after its first line.
--
-- events   a stream: an entry an event, its ids 0-1, 0-2, 0-3 …
-- epochs   a list, oldest first: "<name> <first seq>", and "<name> <first seq> lossy" where what stood there before
--          is known to be gone
-- state    a hash: `server` is whose epoch the newest is, `end` the sizes of all events ever, together; `oldest`,
--          `oldest_start` and `oldest_time` describe the oldest retained event
-- answers  a hash: what was answered under an idempotency key; `expiries` (a sorted set) says until when it counts
local events, epochs, state, answers, expiries = unpack(KEYS)

local MAX_EPOCHS = 1000

local function text(number)
  return string.format('%.0f', number)
end

local function seq_of(id)
  local seq = string.match(id, '^0%-(%d+)$')
  if not seq then
    error({ err = 'FOREIGN ' .. events .. ' is not a stream of this program' })
  end
  return tonumber(seq)
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Redis takes another replication id whenever its history may have become another one: at each start of a master, when
-- a replica is promoted, and when it copies somebody else's data.
local function server_now()
  local replication = redis.call('INFO', 'replication')
  return string.match(replication, 'master_replid:(%x+)'), string.match(replication, 'role:(%a+)') == 'master'
end

local function last_seq()
  local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  if newest then
    return seq_of(newest[1])
  end
  if redis.call('EXISTS', events) == 0 then
    return 0
  end
  local stream = redis.call('XINFO', 'STREAM', events)
  for place = 1, #stream, 2 do
    if stream[place] == 'last-generated-id' then
      return seq_of(stream[place + 1])
    end
  end
end

local function epoch_of(entry)
  local name, first, rest = string.match(entry, '^(%w+) (%d+)(.*)$')
  return name, tonumber(first), rest == ' lossy'
end

-- The fields of an entry, as `append` writes them: epoch, time, start, topic, type, json, data.
local TIME, START = 4, 6

-- The first of the events from `low` to `high` whose field at `place` is at least `bound`; `high + 1` if none is.
local function first_with(place, bound, low, high)
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', events, '0-' .. text(middle), '+', 'COUNT', 1)[1]
    if entry and tonumber(entry[2][place]) < bound then
      low = middle + 1
    else
      high = middle - 1
    end
  end
  return low
end

local function note_oldest(oldest, last, size, time)
  local entry = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local start
  if entry then
    oldest, start, time = seq_of(entry[1]), tonumber(entry[2][START]), tonumber(entry[2][TIME])
  else
    oldest, start = last + 1, size
  end
  redis.call('HSET', state, 'oldest', text(oldest), 'oldest_start', text(start), 'oldest_time', text(time))
  return oldest, start, time
end

-- Whether a new epoch has to begin: the log is new, or Redis another one than it was, or events are gone of which
-- somebody knows who knows of no newer epoch.
local function is_other(last, newest_known, written)
  local newest = redis.call('LINDEX', epochs, -1)
  if not newest or redis.call('HGET', state, 'server') ~= (server_now()) then
    return true
  end
  local name, first = epoch_of(newest)
  return first > last + 1 or (name == newest_known and last < written)
end

local function begin_epoch(name, last)
  local newest = redis.call('LINDEX', epochs, -1)
  while newest and select(2, epoch_of(newest)) > last + 1 do
    redis.call('RPOP', epochs) -- all it covered is gone, and its ids must not be taken for those of others
    newest = redis.call('LINDEX', epochs, -1)
  end
  redis.call('RPUSH', epochs, name .. ' ' .. text(last + 1))
  redis.call('LTRIM', epochs, -MAX_EPOCHS, -1)
  redis.call('HSET', state, 'server', (server_now()))
  note_oldest(last + 1, last, tonumber(redis.call('HGET', state, 'end') or 0), now())
end

-- Let go of the events that retention does not keep, and of answers that do not count any more. Gives the oldest seq
-- and the sizes of what is kept, together. What was committed just now, if anything, begins at `first`.
local function retain(last, time, max_events, max_bytes, max_age, max_answers, first)
  local values = redis.call('HMGET', state, 'end', 'oldest', 'oldest_start', 'oldest_time')
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
    redis.call('XTRIM', events, 'MINID', '0-' .. text(keep))
    oldest, start = note_oldest(keep, last, size, time)
  elseif oldest == first then
    note_oldest(oldest, last, size, time) -- the log was empty, and what is known of its oldest is when that became so
  end
  local gone = redis.call('ZRANGEBYSCORE', expiries, '-inf', time, 'LIMIT', 0, 100)
  local beyond = redis.call('ZCARD', expiries) - #gone - max_answers
  if beyond > 0 then
    gone = redis.call('ZRANGE', expiries, 0, #gone + math.min(beyond, 100) - 1)
  end
  if #gone > 0 then
    redis.call('ZREM', expiries, unpack(gone))
    redis.call('HDEL', answers, unpack(gone))
  end
  return oldest, size - start
end

local function record(last)
  local values = redis.call('HMGET', state, 'server', 'oldest', 'oldest_time', 'end', 'oldest_start')
  local server, is_primary = server_now()
  return {
    redis.call('LRANGE', epochs, 0, -1),
    values[1] == server and 1 or 0,
    last,
    tonumber(values[2] or last + 1),
    tonumber(values[3] or 0),
    now(),
    tonumber(values[4] or 0) - tonumber(values[5] or 0),
    is_primary and 1 or 0,
  }
end
