#!lua flags=allow-oom
-- Begins a new epoch if that is necessary, notes in the record what is known to be lost, and removes what retention
-- does not keep.
--
-- ARGV: a name in case a new epoch begins; the newest epoch and position that the caller knows to be written; the
-- position up to which it has seen everything; the four bounds of retention; how long tombstones are kept (ms); how
-- many epochs it has seen, their names, oldest first, and the names of those that it knows to be lossy. Returns the
-- record, as `look` does.
local new_epoch, newest, written, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local last = last_seq()
last_given() -- fails if no seq can follow: found out before the next publish
if is_other(last, newest, written) then
  begin_epoch(new_epoch, last)
end
index_topics()

-- If an epoch that the caller does not know begins before the position that it has seen, events that it knows are gone.
-- Other nodes may not have seen these, and have to tell their readers too.
local known, lossy = {}, {}
for place = 11, #ARGV do
  local names = place < 11 + tonumber(ARGV[10]) and known or lossy
  names[ARGV[place]] = true
end
local entries = call('LRANGE', epochs, 0, -1)
local newest_place = 0
for place, entry in ipairs(entries) do
  if epoch_of(entry) == newest then
    newest_place = place
  end
end
local function note_loss(position, from)
  for place = from, #entries do
    local name, first = epoch_of(entries[place])
    if not known[name] then
      if first <= position then
        lossy[name] = true
      end
      return
    end
  end
end
note_loss(seen, 1)
note_loss(written, newest_place + 1)
for place, entry in ipairs(entries) do
  local name, _, is_marked = epoch_of(entry)
  if lossy[name] and not is_marked then -- the mark itself may have been lost
    call('LSET', epochs, place - 1, entry .. ' lossy') -- counted from 0
  end
end
retain(last, now(), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), nil, classes_if_any(),
  tonumber(ARGV[9]))
return record(last)
