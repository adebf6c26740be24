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
--
-- A log whose events are kept in classes (`feed.log.classes`) has these too; `classes` in `state` is the generation of
-- the settings, and tells that they are there:
-- classes  a hash: `settings`, as the node started last has them, and `marks`, what was taken from each; both packed
-- old      a sorted set: events that `events` has no more and their class keeps, packed, by seq; and those beyond the
--          bounds of their class that `latest` keeps, also while `events` has them
-- values   a hash: each topic of a class with `latest`: "<seq> <size> <id of the class> <flags>" of its newest event;
--          flags are k, it is beyond the bounds of its class, and e, it is a tombstone
-- ends     a list, oldest first: "<seq> <time> <topic>" of tombstones beyond the bounds of their class
-- lanes:n  a list for each class, oldest first: "<seq> <size> <time> <id of its class> <topic>" of what is within the
--          bounds. The id differs from the lane's own in the default class, which gets the events of classes that go
local events, epochs, state, answers, expiries, topics, firsts, leases, ttls, classes, old, values, ends, lanes =
  unpack(KEYS)

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
-- In a class that is not the default one there follows the id of the class.
local FIELDS, EPOCH, TIME, START, TOPIC, TYPE, CLASS = 14, 2, 4, 6, 8, 10, 16

-- Another program may have written into the stream. Its entries are skipped: a hole among the events.
local function is_ours(entry)
  local fields = entry[2]
  return (#fields == FIELDS or #fields == CLASS and fields[CLASS - 1] == 'class')
    and fields[1] == 'epoch'
    and tonumber(fields[TIME])
    and tonumber(fields[START])
end

local function old_entry(member)
  local seq_and_fields = cmsgpack.unpack(member)
  return { '0-' .. text(seq_and_fields[1]), seq_and_fields[2] }
end

-- The fields of an event that is retained.
local function event_at(seq)
  local id = '0-' .. text(seq)
  local entry = call('XRANGE', events, id, id)[1]
  if entry then
    return is_ours(entry) and entry[2]
  end
  local member = call('ZRANGEBYSCORE', old, id:sub(3), id:sub(3))[1]
  return member and old_entry(member)[2]
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

local load_classes, save_classes, place_of, is_within, value_of, add_to_class, take, oldest_kept, classes_now
local note_missing, move_to_old, rebuild_classes

-- Define what is needed where there are classes only: each function costs every call of a script some time.
local function define_classes()
  -- The classes, if the log has any. Each lane has the numbers of a class: its `id`, by which events name it;
  -- `first`, `taken` and `ended`, see `Mark`; `popped`, the highest seq that was beyond its bounds; `count` and
  -- `bytes` of what is within them, the seq and time of the oldest of these, `head` and `head_time`; `kept` and
  -- `kept_bytes` of what `latest` keeps beyond them. `retired` has those of classes that are not named any more,
  -- while `events` has events of theirs: `gone_at` is the last seq before they went.
  local NUMBERS = {
    'id', 'first', 'taken', 'ended', 'popped', 'count', 'bytes', 'head', 'head_time', 'kept', 'kept_bytes', 'gone_at',
  }

  function load_classes()
    local blobs = call('HMGET', classes, 'settings', 'marks')
    if not (blobs[1] and blobs[2]) then
      return nil
    end
    local settings, marks = cmsgpack.unpack(blobs[1]), cmsgpack.unpack(blobs[2])
    local held = { max_topics = settings[1], max_bytes = settings[2], bounds = {}, lanes = {}, retired = {} }
    held.generation, held.next_id, held.live, held.live_bytes = unpack(marks[1])
    for place = 2, #marks do
      local lane = {}
      for number, name in ipairs(NUMBERS) do
        lane[name] = marks[place][number]
      end
      local some = place - 1 <= #settings[3] and held.lanes or held.retired
      some[#some + 1] = lane
    end
    for place, each in ipairs(settings[3]) do
      local named, pattern, max_events, max_bytes, age, latest = unpack(each)
      held.lanes[place].pattern = named
      held.bounds[place] = { pattern = pattern, events = max_events, bytes = max_bytes, age = age, latest = latest }
    end
    held.default = held.lanes[#held.lanes]
    held.by_id, held.place, held.of, held.waiting = {}, {}, {}, {}
    for place, lane in ipairs(held.lanes) do
      held.by_id[lane.id], held.place[lane.id] = lane, place
    end
    for _, lane in ipairs(held.retired) do
      held.by_id[lane.id] = lane
    end
    return held
  end

  -- Written with each append, so it is short: numbers, without their names.
  function save_classes(held)
    local marks = { { held.generation, held.next_id, held.live, held.live_bytes } }
    for _, some in ipairs({ held.lanes, held.retired }) do
      for _, lane in ipairs(some) do
        local numbers = {}
        for number, name in ipairs(NUMBERS) do
          numbers[number] = lane[name] or 0
        end
        marks[#marks + 1] = numbers
      end
    end
    call('HSET', classes, 'marks', cmsgpack.pack(marks))
  end

  function place_of(held, topic)
    local place = held.of[topic]
    if not place then
      place = 1
      while place < #held.bounds and not string.find(topic, held.bounds[place].pattern) do
        place = place + 1
      end
      held.of[topic] = place
    end
    return place
  end

  -- Whether an event is within the bounds of its class. If it is not, `old` has it if it is kept.
  function is_within(held, seq, fields)
    local lane = held.by_id[tonumber(fields[CLASS] or 0)] or held.default
    return seq > lane.popped
  end

  -- How many characters a text has: as `Event.size` counts.
  local function length(text_)
    if not string.find(text_, '[\128-\255]') then
      return #text_
    end
    return #text_ - select(2, string.gsub(text_, '[\128-\191]', ''))
  end

  local function size_of(fields)
    return length(fields[TOPIC]) + length(fields[TYPE]) + length(fields[FIELDS]) + 64
  end

  local function keep_old(seq, fields)
    call('ZADD', old, text(seq), cmsgpack.pack({ seq, fields }))
  end

  local function drop_old(seq)
    call('ZREMRANGEBYSCORE', old, text(seq), text(seq))
  end

  function value_of(topic)
    local value = call('HGET', values, topic)
    if not value then
      return nil
    end
    local seq, size, id, flags = string.match(value, '^(%d+) (%d+) (%d+) ?(%a*)$')
    return {
      seq = tonumber(seq),
      size = tonumber(size),
      id = tonumber(id),
      is_kept = string.find(flags, 'k', 1, true) ~= nil,
      is_ended = string.find(flags, 'e', 1, true) ~= nil,
    }
  end

  local function value_text(value)
    local flags = (value.is_kept and 'k' or '') .. (value.is_ended and 'e' or '')
    return text(value.seq) .. ' ' .. text(value.size) .. ' ' .. text(value.id) .. ' ' .. flags
  end

  local function count_value(held, value, sign)
    if not value.is_ended then
      held.live, held.live_bytes = held.live + sign, held.live_bytes + sign * value.size
    end
  end

  local function forget_topic(topic)
    call('ZREM', topics, topic)
    call('HDEL', firsts, topic)
  end

  local function lane_text(seq, size, time, id, topic)
    return text(seq) .. ' ' .. text(size) .. ' ' .. text(time) .. ' ' .. text(id) .. ' ' .. topic
  end

  local function count_in(lane, seq, size, time)
    if lane.count == 0 then
      lane.head, lane.head_time = seq, time
    end
    lane.count, lane.bytes = lane.count + 1, lane.bytes + size
  end

  -- Note an event that was appended. A kept one that it supersedes goes. It gets into its lane by `push_waiting`.
  function add_to_class(held, place, seq, topic, type_, size, time)
    local lane = held.lanes[place]
    local some = held.waiting[place] or {}
    some[#some + 1], held.waiting[place] = lane_text(seq, size, time, lane.id, topic), some
    count_in(lane, seq, size, time)
    if not held.bounds[place].latest then
      return
    end
    local before = value_of(topic)
    if before then
      count_value(held, before, -1)
      if before.is_kept then
        local its = held.by_id[before.id]
        drop_old(before.seq)
        its.kept, its.kept_bytes = its.kept - 1, its.kept_bytes - before.size
        its.taken = math.max(its.taken, before.seq)
      end
    end
    local value = { seq = seq, size = size, id = lane.id, is_ended = type_ == 'feed.deleted' }
    call('HSET', values, topic, value_text(value))
    count_value(held, value, 1)
  end

  local function push_waiting(held)
    for place, some in pairs(held.waiting) do
      for start = 1, #some, 500 do
        call('RPUSH', lanes .. ':' .. place, unpack(some, start, math.min(start + 499, #some)))
      end
    end
    held.waiting = {}
  end

  -- Keep the newest event of its topic beyond the bounds of its class. Returns whether it is there.
  local function keep_value(held, lane, seq, time, topic)
    local value = value_of(topic)
    if not value or value.seq ~= seq then
      return false
    end
    if call('ZCOUNT', old, text(seq), text(seq)) == 0 then
      local fields = event_at(seq)
      if not fields then
        count_value(held, value, -1)
        call('HDEL', values, topic)
        return false
      end
      keep_old(seq, fields)
    end
    value.is_kept, value.id = true, lane.id
    call('HSET', values, topic, value_text(value))
    lane.kept, lane.kept_bytes = lane.kept + 1, lane.kept_bytes + value.size
    if value.is_ended then
      call('RPUSH', ends, text(seq) .. ' ' .. text(time) .. ' ' .. topic)
    end
    return true
  end

  local function take_from(held, place, time, dense)
    local lane, bounds, key = held.lanes[place], held.bounds[place], lanes .. ':' .. place
    local some = math.max(2, math.min(500, lane.count - bounds.events + 1))
    local function is_over()
      return lane.count > 0
        and (lane.count > bounds.events or lane.bytes > bounds.bytes or lane.head_time < time - bounds.age)
    end
    while is_over() do
      local entries, gone = call('LRANGE', key, 0, some), 0
      if #entries == 0 then -- another client has removed them
        lane.count, lane.bytes = 0, 0
        return
      end
      local parts, names = {}, {}
      for number, entry in ipairs(entries) do
        parts[number] = { string.match(entry, '^(%d+) (%d+) (%d+) (%d+) (.*)$') }
        names[number] = parts[number][5]
      end
      local newest = call('ZMSCORE', topics, unpack(names))
      for number = 1, math.min(some, #entries) do
        if not is_over() then
          break
        end
        local seq, size, since, id = unpack(parts[number])
        local topic, its = names[number], held.by_id[tonumber(id)]
        local is_newest = newest[number] and tonumber(newest[number]) == tonumber(seq)
        seq, gone = tonumber(seq), number
        -- `old` may have it: if `events` has lost it, or if it was kept before the settings changed.
        local is_old = seq < dense or (its and seq <= its.popped)
        lane.count, lane.bytes = lane.count - 1, lane.bytes - tonumber(size)
        if its then
          its.popped = math.max(its.popped, seq)
        end
        if not (is_newest and bounds.latest and keep_value(held, lane, seq, tonumber(since), topic)) then
          lane.taken = math.max(lane.taken, seq)
          if is_old then
            drop_old(seq)
          end
          if is_newest then
            forget_topic(topic)
          end
        end
        if parts[number + 1] then
          lane.head, lane.head_time = tonumber(parts[number + 1][1]), tonumber(parts[number + 1][3])
        end
      end
      call('LTRIM', key, gone, -1)
      some = math.min(500, some * 2)
    end
  end

  -- Take what is beyond the bounds of its class, and tombstones that were kept for long enough.
  function take(held, time, tombstone)
    push_waiting(held)
    local dense = tonumber(call('HGET', state, 'oldest'))
    for place = 1, #held.lanes do
      take_from(held, place, time, dense)
    end
    while true do
      local entry = call('LINDEX', ends, 0)
      if not entry then
        return
      end
      local seq, since, topic = string.match(entry, '^(%d+) (%d+) (.*)$')
      seq = tonumber(seq)
      local value = value_of(topic)
      local is_there = value and value.seq == seq
      if is_there and tonumber(since) >= time - tombstone then
        return
      end
      call('LPOP', ends)
      if is_there then
        local its = held.by_id[value.id]
        its.kept, its.kept_bytes = its.kept - 1, its.kept_bytes - value.size
        its.taken, its.ended = math.max(its.taken, seq), math.max(its.ended, seq)
        call('HDEL', values, topic)
        drop_old(seq)
        forget_topic(topic)
      end
    end
  end

  -- The oldest event that a class keeps: its seq, and its time.
  function oldest_kept(held, last, time)
    local oldest = last + 1
    for _, lane in ipairs(held.lanes) do
      if lane.count > 0 and lane.head < oldest then
        oldest, time = lane.head, lane.head_time
      end
    end
    local kept = call('ZRANGE', old, 0, 0, 'WITHSCORES')
    if kept[1] and tonumber(kept[2]) < oldest then
      oldest, time = tonumber(kept[2]), tonumber(old_entry(kept[1])[2][TIME])
    end
    return oldest, time
  end

  -- What nodes have to know: the generation, the oldest seq and its time, when the next event is too old for its
  -- class, the time of the oldest kept tombstone or -1, how many events are retained and their sizes; then first,
  -- taken, ended, count and bytes of each class.
  function classes_now(held, last)
    local oldest, oldest_time = oldest_kept(held, last, 0)
    local tombstone = tonumber(string.match(call('LINDEX', ends, 0) or '', '^%d+ (%d+)') or -1)
    local answer = { held.generation, oldest, oldest_time, MAX_SEQ, tombstone, 0, 0 }
    for place, lane in ipairs(held.lanes) do
      if lane.count > 0 then
        answer[4] = math.min(answer[4], lane.head_time + held.bounds[place].age + 1)
      end
      local count, bytes = lane.count + lane.kept, lane.bytes + lane.kept_bytes
      answer[6], answer[7] = answer[6] + count, answer[7] + bytes
      for _, number in ipairs({ lane.first, lane.taken, lane.ended, count, bytes }) do
        answer[#answer + 1] = number
      end
    end
    return answer
  end

  -- Events up to this one were lost. Of which class they were cannot be known: any reader may miss some.
  function note_missing(held, seq)
    for _, lane in ipairs(held.lanes) do
      lane.taken = math.max(lane.taken, seq)
    end
  end

  -- Move what `events` is about to lose, and a class keeps, to `old`. Note what another client has deleted.
  function move_to_old(held, low, high)
    local from, to, following = '0-' .. text(low), '0-' .. text(high), low
    repeat
      local entries = call('XRANGE', events, from, to, 'COUNT', 100)
      for _, entry in ipairs(entries) do
        local seq = seq_of(entry[1])
        if seq > following then
          note_missing(held, seq - 1)
        end
        if not is_ours(entry) then
          note_missing(held, seq)
        elseif is_within(held, seq, entry[2]) then
          keep_old(seq, entry[2])
        end
        from, following = '(' .. entry[1], seq + 1
      end
    until #entries < 100
    if following <= high then
      note_missing(held, high)
    end
  end

  local function clear_hash(key)
    local names = call('HKEYS', key)
    for place = 1, #names, 500 do
      call('HDEL', key, unpack(names, place, math.min(place + 499, #names)))
    end
  end

  -- Make lanes, values and the index of topics from the events that are there. The classes have been changed, or
  -- events were lost. It looks at every event, once.
  function rebuild_classes(held, last)
    call('ZREMRANGEBYSCORE', old, '(' .. text(last), '+inf')
    clear_hash(values)
    clear_hash(firsts)
    call('LTRIM', ends, 1, 0) -- empties it
    call('ZREMRANGEBYRANK', topics, 0, -1)
    for place = 1, 33 do
      call('LTRIM', lanes .. ':' .. place, 1, 0)
    end
    held.live, held.live_bytes = 0, 0
    local pending, newest, begun, found = {}, {}, {}, {}
    for place, lane in ipairs(held.lanes) do
      lane.count, lane.bytes, lane.head, lane.head_time, lane.kept, lane.kept_bytes = 0, 0, 0, 0, 0, 0
      pending[place] = {}
    end
    local function push(place)
      local some = pending[place]
      if #some > 0 then
        call('RPUSH', lanes .. ':' .. place, unpack(some))
        pending[place] = {}
      end
    end
    local function add(seq, fields)
      local id, topic, size = tonumber(fields[CLASS] or 0), fields[TOPIC], size_of(fields)
      local place = held.place[id] or #held.lanes
      local lane = held.lanes[place]
      count_in(lane, seq, size, tonumber(fields[TIME]))
      local some = pending[place]
      some[#some + 1] = lane_text(seq, size, tonumber(fields[TIME]), id, topic)
      if #some == 500 then
        push(place)
      end
      newest[topic], begun[topic] = seq, begun[topic] or seq
      if held.bounds[place].latest then
        found[topic] = { seq = seq, size = size, id = lane.id, is_ended = fields[TYPE] == 'feed.deleted' }
      end
    end
    local dense = tonumber(call('HGET', state, 'oldest'))
    local from = '-inf'
    repeat
      local members = call('ZRANGEBYSCORE', old, from, '(' .. text(dense), 'LIMIT', 0, 100)
      for _, member in ipairs(members) do
        local entry = old_entry(member)
        add(seq_of(entry[1]), entry[2])
        from = '(' .. string.sub(entry[1], 3)
      end
    until #members < 100
    from = '0-' .. text(dense)
    repeat
      local entries = call('XRANGE', events, from, '+', 'COUNT', 100)
      for _, entry in ipairs(entries) do
        local seq = seq_of(entry[1])
        if is_ours(entry)
          and (is_within(held, seq, entry[2]) or call('ZCOUNT', old, text(seq), text(seq)) > 0)
        then
          add(seq, entry[2])
        end
        from = '(' .. entry[1]
      end
    until #entries < 100
    for place = 1, #held.lanes do
      push(place)
    end
    for topic, value in pairs(found) do
      call('HSET', values, topic, value_text(value))
      count_value(held, value, 1)
    end
    local flat = {}
    for topic, seq in pairs(newest) do
      flat[#flat + 1], flat[#flat + 2] = text(seq), topic
    end
    note_topics(flat, begun)
  end
end

local function classes_held()
  define_classes()
  return load_classes()
end

local function classes_if_any()
  return call('HEXISTS', state, 'classes') == 1 and classes_held() or nil
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

-- Forget epochs beyond the bounds, the oldest first. Those of events that a class keeps never go.
local function forget_epochs(oldest, last, size, held)
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
  local from = held and 1 or math.max(1, #kept + 1 - MAX_EPOCHS_WITH_EVENTS)
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
  local oldest, held = note_oldest(last, size, now()), classes_if_any()
  if held then
    if is_lossy then
      for _, lane in pairs(held.by_id) do
        lane.popped, lane.taken = math.min(lane.popped, last), math.min(lane.taken, last)
        lane.ended = math.min(lane.ended, last)
      end
      rebuild_classes(held, last)
      save_classes(held)
    end
    oldest = oldest_kept(held, last, 0)
  end
  forget_epochs(oldest, last, size, held)
end

-- Remove the events that retention does not keep, and the answers that have expired. Returns the oldest seq and the sum
-- of the sizes that are kept. `first` is the seq of the first event committed just now, if there is one. Where there
-- are classes, `held`, `events` is bounded as the default class is, whatever class its events are of; these are saved.
local function retain(last, time, max_events, max_bytes, max_age, max_answers, first, held, tombstone)
  if held then
    local bounds = held.bounds[#held.bounds]
    max_events, max_bytes, max_age = bounds.events, bounds.bytes, bounds.age
    take(held, time, tombstone)
  end
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
    if held then
      move_to_old(held, oldest, keep - 1)
    end
    call('XTRIM', events, 'MINID', '0-' .. text(keep))
    oldest, start = note_oldest(last, size, time)
    if not held then
      forget_topics(oldest)
    elseif oldest > keep then
      note_missing(held, oldest - 1)
    end
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
  if held then
    save_classes(held)
    local told = classes_now(held, last)
    return told[2], told[7], told
  end
  return oldest, size - start
end

local function record(last)
  local values = call('HMGET', state, 'server', 'oldest', 'oldest_time', 'end', 'oldest_start', 'classes')
  local entry = call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local there = entry and seq_of(entry[1]) or last + 1 -- another client may have trimmed the stream
  local server, is_primary = server_now()
  local held = values[6] and classes_held()
  local told = held and classes_now(held, last) or {}
  return {
    call('LRANGE', epochs, 0, -1),
    values[1] == server and 1 or 0,
    last,
    told[2] or math.max(there, tonumber(values[2] or 0)),
    entry and is_ours(entry) and tonumber(entry[2][TIME]) or tonumber(values[3] or 0),
    now(),
    told[7] or tonumber(values[4] or 0) - tonumber(values[5] or 0),
    is_primary and 1 or 0,
    tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2] or -1),
    told,
    held and call('HGET', classes, 'settings') or '',
  }
end
