-- Takes over one partition number and answers with all that is stored about it.
-- KEYS  meta, hot, cold, due, out
-- ARGV  generation, incarnation, forced: "<generation>/<incarnation>" of an owner that Kafka has disowned, or ""
local kinds = {'hash', 'hash', 'hash', 'zset', 'stream'}
for i, kind in ipairs(kinds) do
  -- A script is not undone when a command in it fails, so what could make the commit fail half-way is refused here.
  local found = redis.call('TYPE', KEYS[i])['ok']
  if found ~= 'none' and found ~= kind then return {'WRONG', KEYS[i], found} end
end
local stored = redis.call('HMGET', KEYS[1], 'gen', 'inc')
local generation, incarnation = stored[1] or '-1', stored[2] or ''
if ARGV[3] ~= '' then
  if generation .. '/' .. incarnation ~= ARGV[3] then return {'FENCED', generation, incarnation} end
else
  if tonumber(generation) > tonumber(ARGV[1]) then return {'FENCED', generation, incarnation} end
  if generation == ARGV[1] and incarnation ~= ARGV[2] then return {'SPLIT', generation, incarnation} end
end
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'inc', ARGV[2])
return {'OK', redis.call('HGETALL', KEYS[1])}
