#!lua
-- Commits batches, each whole. Without the flag `allow-oom`, Redis refuses the script before its first step if memory
-- is full.
--
-- ARGV: the epoch and the position that the caller knows, a name in case a new epoch begins, the four bounds of
-- retention, how long answers count (ms), the batches, and how long tombstones are kept (ms). A batch is
-- {drafts, key, fingerprint}; a draft is {topic, type, json, data, size, terms}, and terms are
-- {delete, if_match, if_none_match, ttl}, or nil. Without batches it only ends the leases that have run out, which
-- every call does.
--
-- Returns, for each batch, one of these; then the oldest seq, the sum of the retained sizes, {epoch, first seq, count}
-- of all events that were committed, or nil, and what `classes_now` says, if there are classes.
-- - {epoch, first seq, count, "", ids}: it was committed. The ids are empty where first seq and count say them
-- - the same with "again": it was committed before under its key
-- - {"429", place}: there are too many leases
-- - {"507", place}: there is no room for one more value that `latest` keeps
-- - {"412", place, id} and {"404", place}: the terms of a draft are not met (the rule: `feed.terms`)
-- - `false`: its key was used for another request
local MAX_LEASES, MAX_EXPIRED = 100000, 500 -- see `feed.log.leases`
local newest_known, written, new_epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = now()
local last, last_time = last_seq()
local first
if is_other(last, newest_known, written) then
  begin_epoch(new_epoch, last)
end
local epoch = epoch_of(call('LINDEX', epochs, -1))
local known = call('HMGET', state, 'end', 'last_time', 'classes')
local held = known[3] and classes_held() or nil
local size = tonumber(known[1] or 0)
-- The times of events never go back, whatever the clock does, and whichever machine's clock it is.
local time_text = text(math.max(time, last_time, tonumber(known[2] or 0)))

local function earlier_answer(key, fingerprint)
  local answer = call('HGET', answers, key)
  if not answer or tonumber(call('ZSCORE', expiries, key)) <= time then
    return nil
  end
  local print, name, first, count, ids = string.match(answer, '^(%x*) (%w+) (%d+) (%d+) ?(.*)$')
  if print ~= fingerprint then
    return false
  end
  return { name, tonumber(first), tonumber(count), 'again', ids }
end

-- The newest events of the topics that this call commits to, and the seqs of the first ones.
local newest, begun, names = {}, {}, {}

local leased = call('ZCARD', leases)

local function note(topic, seq, type_, ttl)
  if not newest[topic] then
    names[#names + 1], begun[topic] = topic, seq
  end
  newest[topic] = { epoch = epoch, seq = seq, type = type_ }
  if ttl then
    leased = leased + call('ZADD', leases, text(time + ttl), topic)
    call('HSET', ttls, topic, text(seq) .. ' ' .. text(ttl))
  elseif leased > 0 and call('ZREM', leases, topic) > 0 then
    leased = leased - 1
    call('HDEL', ttls, topic)
  end
end

local function newest_of(topic, here)
  local known = here[topic] or newest[topic]
  if known then
    return known
  end
  local seq = tonumber(call('ZSCORE', topics, topic) or 0)
  local fields = seq > 0 and event_at(seq)
  return fields and { epoch = fields[EPOCH], seq = seq, type = fields[TYPE] }
end

-- Returns the drafts to commit, the ids of all, and the places of those to commit; or why not.
local function judged(drafts)
  local kept, ids, here, seq, places = {}, {}, {}, last, {}
  for place, draft in ipairs(drafts) do
    local terms, skipped = draft[6], false
    if type(terms) == 'table' then
      local delete, if_match, if_none_match = terms[1], terms[2], terms[3]
      local now_ = newest_of(draft[1], here)
      local live = now_ and now_.type ~= 'feed.deleted'
      local current = now_ and now_.epoch .. '-' .. text(now_.seq) or ''
      if (if_none_match and live)
        or (if_match == '*' and not live)
        or (if_match ~= '' and if_match ~= '*' and if_match ~= current) then
        return nil, { '412', place - 1, current }
      end
      if delete and not now_ then
        return nil, { '404', place - 1 }
      end
      if terms[4] and leased + place > MAX_LEASES and not call('ZSCORE', leases, draft[1]) then
        return nil, { '429', place - 1 }
      end
      skipped = delete and not live
      if skipped then
        ids[place] = current
      end
    end
    if not skipped then
      seq = seq + 1
      kept[#kept + 1], places[#places + 1] = draft, place
      ids[place] = epoch .. '-' .. text(seq)
      here[draft[1]] = { epoch = epoch, seq = seq, type = draft[2] }
    end
  end
  return kept, ids, places
end

-- Redis counts the seqs: if another client has set its count ahead, there is a hole.
local function commit(drafts)
  local begin
  for _, draft in ipairs(drafts) do
    local place = held and place_of(held, draft[1])
    if held and held.lanes[place].id > 0 then
      last = seq_of(call('XADD', events, '0-*', 'epoch', epoch, 'time', time_text, 'start', text(size),
        'topic', draft[1], 'type', draft[2], 'json', draft[3], 'data', draft[4], 'class', text(held.lanes[place].id)))
    else
      last = seq_of(call('XADD', events, '0-*', 'epoch', epoch, 'time', time_text, 'start', text(size),
        'topic', draft[1], 'type', draft[2], 'json', draft[3], 'data', draft[4]))
    end
    begin = begin or last
    size = size + draft[5]
    if held then
      add_to_class(held, place, last, draft[1], draft[2], draft[5], tonumber(time_text))
    end
    note(draft[1], last, draft[2], type(draft[6]) == 'table' and draft[6][4])
  end
  first = first or begin
  return { epoch, begin, #drafts, '', '' }
end

-- Returns why a batch cannot be kept, if it cannot: {"507", place}. `places` are those of its drafts, if some of the
-- request are left out. What is deleted always has room.
local function without_room(drafts, places)
  local live, bytes, here = held.live, held.live_bytes, {}
  for number, draft in ipairs(drafts) do
    local topic = draft[1]
    if held.bounds[place_of(held, topic)].latest then
      local before = here[topic]
      if before == nil then
        local value = value_of(topic)
        before = value and not value.is_ended and value.size
      end
      local after = draft[2] ~= 'feed.deleted' and draft[5]
      live = live + (after and 1 or 0) - (before and 1 or 0)
      bytes = bytes + (after or 0) - (before or 0)
      if after
        and ((not before and live > held.max_topics) or (after > (before or 0) and bytes > held.max_bytes))
      then
        return { '507', (places and places[number] or number) - 1 }
      end
      here[topic] = after
    end
  end
end

local function commit_if_room(drafts, places)
  return held and without_room(drafts, places) or commit(drafts)
end

local function commit_judged(drafts)
  local kept, ids, places = judged(drafts)
  if not kept then
    return ids
  end
  local answer = #kept > 0 and commit_if_room(kept, places)
  if answer and #answer < 5 then
    return answer
  end
  if #kept == #drafts then
    return answer
  end
  local name, seq = string.match(ids[1], '^(%w+)%-(%d+)$')
  return { name, tonumber(seq), #kept, '', table.concat(ids, ' ') }
end

-- Append the tombstones of topics whose values have run out; once, on however many nodes.
local function end_leases()
  local due = leased > 0 and call('ZRANGEBYSCORE', leases, '-inf', text(time), 'LIMIT', 0, MAX_EXPIRED) or {}
  local drafts = {}
  for _, topic in ipairs(due) do
    local seq = tonumber(string.match(call('HGET', ttls, topic) or '', '^%d+'))
    local now_ = newest_of(topic, {})
    if now_ and now_.seq == seq then
      drafts[#drafts + 1] = { topic, 'feed.deleted', '1', '{}', #topic + 12 + 2 + 64 }
    end
  end
  if #drafts > 0 then
    commit(drafts)
  end
  if #due > 0 then
    call('ZREM', leases, unpack(due))
    call('HDEL', ttls, unpack(due))
  end
end

local given = {}
for place, batch in ipairs(cmsgpack.unpack(ARGV[9])) do
  local drafts, key, fingerprint, has_terms = unpack(batch) -- an empty key means no key
  local answer
  if key ~= '' then
    answer = earlier_answer(key, fingerprint)
  end
  if answer == nil then
    answer = has_terms and commit_judged(drafts) or not has_terms and commit_if_room(drafts)
    if key ~= '' and #answer == 5 then
      local name, begin, count, _, ids = unpack(answer)
      call('HSET', answers, key, string.format('%s %s %.0f %.0f %s', fingerprint, name, begin, count, ids))
      call('ZADD', expiries, text(time + tonumber(ARGV[8])), key)
    end
  end
  given[place] = answer
end
end_leases()
if first then
  local flat = {}
  for _, name in ipairs(names) do
    flat[#flat + 1], flat[#flat + 2] = text(newest[name].seq), name
  end
  note_topics(flat, begun)
  call('HSET', state, 'end', text(size), 'last', text(last), 'last_time', time_text)
end
local max_events, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local max_age, max_answers = tonumber(ARGV[6]), tonumber(ARGV[7])
local oldest, kept, told = retain(last, time, max_events, max_bytes, max_age, max_answers, first, held, tonumber(ARGV[10]))
return { given, oldest, kept, first and { epoch, first, last - first + 1 } or false, told }
