#!lua flags=no-writes
-- ARGV: a time (ms), the oldest seq and the last one. Returns the seq of the first event committed then or later.
local time, oldest, last = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if classes_if_any() then
  oldest = tonumber(call('HGET', state, 'oldest'))
  -- By bisection among those that only `old` has.
  local low, high = 0, call('ZCOUNT', old, '-inf', '(' .. text(oldest))
  local count = high
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(old_entry(call('ZRANGE', old, middle, middle)[1])[2][TIME]) < time then
      low = middle + 1
    else
      high = middle
    end
  end
  if low < count then
    return seq_of(old_entry(call('ZRANGE', old, low, low)[1])[1])
  end
end
return first_with(TIME, time, oldest, last)
