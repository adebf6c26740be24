#!lua
-- Makes the classes of retention what a node's settings say, unless they are that already. Its settings then count for
-- all nodes. What is retained is sorted into the new classes, once: that takes some tens of microseconds for each event.
--
-- ARGV: the settings, packed: {how many topics and how many bytes `latest` keeps, {pattern, the same for Lua, events,
-- bytes, age (ms), latest} for each class, the default one last}; how many answers are kept; how long tombstones are
-- kept (ms). Returns the record, as `look` does.
local last, time = last_seq(), now()
local before = classes_if_any()
if not call('LINDEX', epochs, -1) or (before and call('HGET', classes, 'settings') == ARGV[1]) then
  return record(last)
end
index_topics()
define_classes()

local dense = tonumber(call('HGET', state, 'oldest'))
local by_pattern = {}
local marks = {
  generation = math.max(time, before and before.generation + 1 or 0),
  next_id = before and before.next_id or 1,
  live = 0,
  live_bytes = 0,
  retired = {},
  lanes = {},
}
local function lane_of(id, first)
  return { id = id, first = first, taken = 0, popped = 0 }
end
if before then
  for place = 1, #before.lanes - 1 do
    by_pattern[before.lanes[place].pattern] = before.lanes[place]
  end
  for _, lane in ipairs(before.retired) do
    if lane.gone_at >= dense then
      marks.retired[#marks.retired + 1] = lane
    end
  end
end
local default = before and before.default or lane_of(0, 1)
if not before then
  default.taken = dense - 1 -- what is gone may have been of any topic
end
local named = cmsgpack.unpack(ARGV[1])[3]
for place = 1, #named - 1 do
  local pattern = named[place][1]
  local lane = by_pattern[pattern]
  if not lane then
    lane = lane_of(marks.next_id, last + 1)
    marks.next_id = marks.next_id + 1
  end
  by_pattern[pattern] = nil
  marks.lanes[place] = lane
end
marks.lanes[#named] = default
for _, lane in pairs(by_pattern) do
  default.taken = math.max(default.taken, lane.taken)
  marks.retired[#marks.retired + 1] = { id = lane.id, popped = lane.popped, gone_at = last }
end
call('HSET', classes, 'settings', ARGV[1])
save_classes(marks)
call('HSET', state, 'classes', text(marks.generation))
local held = load_classes()
rebuild_classes(held, last)
retain(last, time, 0, 0, 0, tonumber(ARGV[2]), nil, held, tonumber(ARGV[3]))
return record(last)
