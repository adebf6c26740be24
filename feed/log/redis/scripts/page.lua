#!lua flags=no-writes
-- ARGV: "forward" or "backward", the first and the last seq of a range, the most events, and after how many bytes to
-- stop. Returns entries of the stream, as XRANGE or XREVRANGE do; of another program's entries only the id.
local forward = ARGV[1] == 'forward'
local low, high = tonumber(ARGV[2]), tonumber(ARGV[3])
local count, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local found, size = {}, 0
while low <= high and #found < count and size <= bytes do
  local chunk
  local few = math.min(count - #found, 20)
  if forward then
    chunk = call('XRANGE', events, '0-' .. text(low), '0-' .. text(high), 'COUNT', few)
  else
    chunk = call('XREVRANGE', events, '0-' .. text(high), '0-' .. text(low), 'COUNT', few)
  end
  for _, entry in ipairs(chunk) do
    if is_ours(entry) then
      size = size + #entry[2][8] + #entry[2][14]
    else
      entry = { entry[1], {} }
    end
    found[#found + 1] = entry
    if size > bytes then
      break
    end
  end
  if #chunk < few then
    break
  end
  local reached = seq_of(found[#found][1])
  if forward then
    low = reached + 1
  else
    high = reached - 1
  end
end
return found
