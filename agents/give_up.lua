-- Moves an offset over records that Kafka no longer has, and writes down that somebody has decided so.
-- KEYS  meta
-- ARGV  topic, offset expected, next offset, new version, field that says it, its value
if redis.call('HGET', KEYS[1], ARGV[5]) then return 'OK' end
if redis.call('HGET', KEYS[1], 'off:' .. ARGV[1]) ~= ARGV[2] then return 'MOVED' end
-- Another version: whoever has loaded a state by now has to look again.
redis.call('HSET', KEYS[1], 'off:' .. ARGV[1], ARGV[3], 'ver', ARGV[4], ARGV[5], ARGV[6])
return 'OK'
