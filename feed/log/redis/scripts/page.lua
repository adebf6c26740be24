#!lua flags=no-writes
-- ARGV: "forward" or "backward", the first and the last seq of a range, the most events, and after how many bytes to
-- stop.
--
-- Returns {entries}, where these are of the stream, as XRANGE or XREVRANGE give them; of another program's entries only
-- the id. Where there are classes, it returns {entries, start, end, what `classes_now` says}: the events of
-- start + 1 … end were looked at, there is no hole among them, and the entries are those that are kept.
local MAX_LOOKS = 2000
local forward = ARGV[1] == 'forward'
local low, high = tonumber(ARGV[2]), tonumber(ARGV[3])
local count, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local found, size = {}, 0

local function add(entry)
  size = size + #entry[2][TOPIC] + #entry[2][FIELDS]
  found[#found + 1] = entry
end

local function is_full()
  return #found >= count or size > bytes
end

local function entries_of(below, above, few)
  local from, to = '0-' .. text(below), '0-' .. text(above)
  if forward then
    return call('XRANGE', events, from, to, 'COUNT', few)
  end
  return call('XREVRANGE', events, to, from, 'COUNT', few)
end

-- The entries of `old` from one seq to another, at most so many.
local function old_entries(below, above, few)
  local from, to, command = text(below), text(above), 'ZRANGEBYSCORE'
  if not forward then
    from, to, command = to, from, 'ZREVRANGEBYSCORE'
  end
  local entries = call(command, old, from, to, 'LIMIT', 0, few)
  for place, member in ipairs(entries) do
    entries[place] = old_entry(member)
  end
  return entries
end

local function is_kept(held, entry, seq)
  return is_within(held, seq, entry[2]) or call('ZCOUNT', old, text(seq), text(seq)) > 0
end

-- `reached` is the last seq that was looked at, in either direction; `begun` the one before the first.
local held = classes_if_any()
local step = forward and 1 or -1
local begun = forward and low - 1 or high + 1
local reached, looked = begun, 0

local function look_at_old(below, above)
  while below <= above and not is_full() do
    local few = math.min(count - #found, 20)
    local entries = old_entries(below, above, few)
    for _, entry in ipairs(entries) do
      reached = seq_of(entry[1])
      add(entry)
      if is_full() then
        return
      end
    end
    if #entries < few then
      reached = forward and above or below
      return
    end
    if forward then
      below = reached + 1
    else
      above = reached - 1
    end
  end
end

-- Returns whether to go on behind this part of the stream, in which all seqs should be.
local function look_at_events(below, above)
  local few = 20
  while below <= above and not is_full() and looked < MAX_LOOKS do
    local entries = entries_of(below, above, few)
    for _, entry in ipairs(entries) do
      local seq = seq_of(entry[1])
      if is_ours(entry) then
        if seq ~= reached + step then
          if reached ~= begun then
            return false -- a hole: the page ends before it
          end
          begun = seq - step
        end
        reached, looked = seq, looked + 1
        if is_kept(held, entry, seq) then
          add(entry)
          if is_full() then
            return false
          end
        end
      end
      if forward then
        below = seq + 1
      else
        above = seq - 1
      end
    end
    if #entries < few then
      return true
    end
  end
  return below > above and not is_full()
end

if held then
  local last = last_seq()
  local dense = tonumber(call('HGET', state, 'oldest'))
  if forward then
    look_at_old(low, math.min(high, dense - 1))
    if not is_full() and (reached == begun or reached == dense - 1) then
      look_at_events(math.max(low, dense), high)
    end
    return { found, begun, reached, classes_now(held, last) }
  end
  if look_at_events(math.max(low, dense), high) then
    if reached == begun or reached == dense then
      if reached == begun and high >= dense then
        begun, reached = dense, dense
      end
      look_at_old(low, math.min(high, dense - 1))
    end
  end
  return { found, reached - 1, begun - 1, classes_now(held, last) }
end

while low <= high and not is_full() do
  local few = math.min(count - #found, 20)
  local chunk = entries_of(low, high, few)
  for _, entry in ipairs(chunk) do
    if is_ours(entry) then
      add(entry)
    else
      found[#found + 1] = { entry[1], {} }
    end
    if size > bytes then
      break
    end
  end
  if #chunk < few then
    break
  end
  local reached_ = seq_of(found[#found][1])
  if forward then
    low = reached_ + 1
  else
    high = reached_ - 1
  end
end
return { found }
