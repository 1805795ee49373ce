-- Forgets one partition number, in one command so that no half of it can be done.
-- KEYS  meta, hot, cold, due, out, aside
-- ARGV  generation, incarnation
local stored = redis.call('HMGET', KEYS[1], 'gen', 'inc')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return {'FENCED', stored[1] or '-1'} end
redis.call('UNLINK', unpack(KEYS))
return {'OK'}
