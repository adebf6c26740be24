#!lua flags=allow-oom
-- Begins a new epoch if there has to be one, says in the record what is known to be lost, and lets go of what retention
-- does not keep.
--
-- ARGV: a name should a new epoch begin, the position that the caller knows, the four bounds of retention, and the
-- names of the epochs that it knows, oldest first. Gives the record, as `look` does.
local new_epoch, known_position = ARGV[1], tonumber(ARGV[2])
local last = last_seq()
if is_other(last, ARGV[#ARGV], known_position) then
  begin_epoch(new_epoch, last)
end

-- The caller has seen all up to `known_position`. If an epoch that it does not know begins before that, events that it
-- has seen are gone. Other nodes may not have seen them, and have to tell their readers too.
local known = {}
for place = 7, #ARGV do
  known[ARGV[place]] = true
end
for place, entry in ipairs(redis.call('LRANGE', epochs, 0, -1)) do
  local name, first, lossy = epoch_of(entry)
  if not known[name] then
    if first <= known_position and not lossy then
      redis.call('LSET', epochs, place - 1, entry .. ' lossy')
    end
    break
  end
end
retain(last, now(), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))
return record(last)
