-- Puts what was loaded beside a partition number in its place, whole, in one command.
-- KEYS  meta, hot, cold, due, out, aside, parked, then the keys beside of: meta, hot, cold, due, out, parked
-- ARGV  token, how many there must be of: hot, cold, due, out, parked; 'replace' or ''
if redis.call('HGET', KEYS[8], 'ver') ~= ARGV[1] then return {'GONE', KEYS[8]} end
local counts = {
  redis.call('HLEN', KEYS[9]), redis.call('HLEN', KEYS[10]), redis.call('ZCARD', KEYS[11]),
  redis.call('XLEN', KEYS[12]), redis.call('XLEN', KEYS[13]),
}
for i, count in ipairs(counts) do
  if count ~= tonumber(ARGV[i + 1]) then return {'COUNT', KEYS[i + 8], tostring(count)} end
end
local places = {KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]}
if ARGV[7] == '' then
  for _, key in ipairs(places) do
    if redis.call('EXISTS', key) == 1 then return {'THERE', key} end
  end
end
redis.call('UNLINK', KEYS[6], unpack(places))
for i, key in ipairs(places) do
  if redis.call('EXISTS', KEYS[i + 7]) == 1 then
    redis.call('RENAME', KEYS[i + 7], key)
    redis.call('PERSIST', key)
  end
end
return {'OK'}
