-- A partition number as it stands at one commit, for a backup that is read little by little while workers go on.
-- From `begin` to `end` commit.lua puts aside what it overwrites; the key expires when whoever reads is gone.
-- KEYS  meta, hot, cold, due, out, aside, parked, gone
-- ARGV  'begin', token, milliseconds that the key lives, or 'end', token
if ARGV[1] == 'begin' then
  local other = redis.call('HGET', KEYS[6], '#token')
  if other and other ~= ARGV[2] then return {'BUSY', other} end
  local counted = redis.call('HMGET', KEYS[1], 'begun', 'done')
  if counted[1] ~= counted[2] then return {'TORN', ''} end
  redis.call('UNLINK', KEYS[6])
  redis.call('HSET', KEYS[6], '#token', ARGV[2], '#commits', 0)
  redis.call('PEXPIRE', KEYS[6], ARGV[3])
  local function newest(key)
    local found = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
    return found[1] and found[1][1] or ''
  end
  return {
    'OK', redis.call('HGETALL', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]),
    redis.call('ZCARD', KEYS[4]), redis.call('XLEN', KEYS[5]), newest(KEYS[5]), redis.call('XLEN', KEYS[7]),
    newest(KEYS[7]), redis.call('HLEN', KEYS[8]),
  }
end
local kept = redis.call('HMGET', KEYS[6], '#token', '#commits')
if kept[1] ~= ARGV[2] then return {'GONE', ''} end
redis.call('UNLINK', KEYS[6])
return {'OK', kept[2], redis.call('HGET', KEYS[1], 'done') or '0'}
