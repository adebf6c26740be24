#!lua flags=no-writes
-- ARGV: after how many bytes to stop, and seqs. Returns the entries of the stream with these seqs.
local found, size = {}, 0
for place = 2, #ARGV do
  local id = '0-' .. ARGV[place]
  local entry = call('XRANGE', events, id, id)[1]
  if entry and is_ours(entry) then
    size = size + #entry[2][TOPIC] + #entry[2][FIELDS]
    found[#found + 1] = entry
    if size > tonumber(ARGV[1]) then
      break
    end
  end
end
return found
