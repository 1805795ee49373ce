-- Puts what was loaded beside a partition number in its place, whole, in one command.
-- KEYS  meta, hot, cold, due, out, parked, gone, then the keys beside of the same, then aside
-- ARGV  token, how many there must be beside of: hot, cold, due, out, parked, gone
if redis.call('HGET', KEYS[8], 'ver') ~= ARGV[1] then return {'GONE', KEYS[8]} end
local counted = {'HLEN', 'HLEN', 'ZCARD', 'XLEN', 'XLEN', 'HLEN'}
for i, command in ipairs(counted) do
  local count = redis.call(command, KEYS[i + 8])
  if count ~= tonumber(ARGV[i + 1]) then return {'COUNT', KEYS[i + 8], tostring(count)} end
end
redis.call('UNLINK', KEYS[15])
for i = 1, 7 do
  redis.call('UNLINK', KEYS[i])
  if redis.call('EXISTS', KEYS[i + 7]) == 1 then
    redis.call('RENAME', KEYS[i + 7], KEYS[i])
    redis.call('PERSIST', KEYS[i])
  end
end
return {'OK'}
