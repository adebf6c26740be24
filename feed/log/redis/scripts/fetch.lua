#!lua flags=no-writes
-- ARGV: after how many bytes to stop, and seqs. Returns the entries of the retained events with these seqs.
local found, size = {}, 0
local held = classes_if_any()

local function entry_of(seq)
  local id = '0-' .. seq
  if held then
    local member = call('ZRANGEBYSCORE', old, seq, seq)[1]
    if member then
      return old_entry(member)
    end
  end
  local entry = call('XRANGE', events, id, id)[1]
  if entry and is_ours(entry) and (not held or is_within(held, tonumber(seq), entry[2])) then
    return entry
  end
end

for place = 2, #ARGV do
  local entry = entry_of(ARGV[place])
  if entry then
    size = size + #entry[2][TOPIC] + #entry[2][FIELDS]
    found[#found + 1] = entry
    if size > tonumber(ARGV[1]) then
      break
    end
  end
end
return found
