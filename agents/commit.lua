-- Writes everything one step of work has changed, or nothing.
-- KEYS  meta, hot, cold, due, out, aside; where somebody is erased also: parked, gone
-- ARGV  1 generation  2 incarnation  3 version read  4 new version  5 topic or ""  6 offset expected ("" = none yet)
--       7 next offset  8 partition  9.. number of arguments of: hot, cold, cleared, deadlines, out; then those arguments;
--       then, where somebody is erased, of each the number and then the arguments: customers, ids in out, ids in
--       parked, pairs of gone
local stored = redis.call('HMGET', KEYS[1], 'gen', 'inc', 'ver', 'off:' .. ARGV[5], 'begun', 'done')
-- Our own commit, whose answer was lost, before anything else: the fence may have moved on since it was made.
if stored[3] == ARGV[4] then return {'OK', 'again'} end
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return {'FENCED', stored[1] or '-1'} end
-- Equal, not "at least": a Redis that lost its tail stands below, and what is missing must not be skipped.
if (stored[3] or '') ~= ARGV[3] then return {'CONFLICT', stored[3] or ''} end
if stored[5] ~= stored[6] then return {'TORN', tostring(stored[5])} end
if ARGV[5] ~= '' and (stored[4] or '') ~= ARGV[6] then return {'GAP', stored[4] or ''} end

-- Counted relatively here and absolutely below: when Redis loads its log and something of a commit that was lost
-- comes back to life, the two differ from then on.
local begun = redis.call('HINCRBY', KEYS[1], 'begun', 1)

local at = 14
local hots, colds, cleared, timers = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
-- While a backup is being taken, what is about to be overwritten is put aside for it, once, with whether it was there.
local function aside(kind, command, key, first, count, step)
  for from = first, first + count - 1, 1000 * step do
    local names, marks, fresh = {}, {}, {}
    for i = from, math.min(from + 1000 * step, first + count) - 1, step do
      names[#names + 1], marks[#marks + 1] = ARGV[i], kind .. ARGV[i]
    end
    local kept = redis.call('HMGET', KEYS[6], unpack(marks))
    local old = redis.call(command, key, unpack(names))
    for i, mark in ipairs(marks) do
      if not kept[i] then
        fresh[#fresh + 1] = mark
        fresh[#fresh + 1] = old[i] and '=' .. old[i] or '-'
      end
    end
    if #fresh > 0 then redis.call('HSET', KEYS[6], unpack(fresh)) end
  end
end
local tail = at
for i = 9, 13 do tail = tail + tonumber(ARGV[i]) end
if redis.call('EXISTS', KEYS[6]) == 1 then
  redis.call('HINCRBY', KEYS[6], '#commits', 1)
  aside('h', 'HMGET', KEYS[2], at, hots, 2)
  aside('c', 'HMGET', KEYS[3], at + hots, colds, 2)
  aside('d', 'ZMSCORE', KEYS[4], at + hots + colds, cleared, 1)
  aside('d', 'ZMSCORE', KEYS[4], at + hots + colds + cleared + 1, timers, 2)
  if tail <= #ARGV then
    local erased = tonumber(ARGV[tail])
    local gone = tail
    for _ = 1, 3 do gone = gone + 1 + tonumber(ARGV[gone]) end
    aside('h', 'HMGET', KEYS[2], tail + 1, erased, 1)
    aside('c', 'HMGET', KEYS[3], tail + 1, erased, 1)
    aside('d', 'ZMSCORE', KEYS[4], tail + 1, erased, 1)
    aside('g', 'HMGET', KEYS[8], gone + 1, tonumber(ARGV[gone]), 2)
  end
end

-- Lua's stack holds some 8,000 values: 2,000 arguments a call, an even number so that no pair is torn.
local function each(command, key, count)
  local last = at + count - 1
  while at <= last do
    local upto = math.min(at + 1999, last)
    redis.call(command, key, unpack(ARGV, at, upto))
    at = upto + 1
  end
end
-- Whoever is erased goes before anything is written: who comes back in the same step begins anew.
if tail <= #ARGV then
  local first = at
  local function tailed(...)
    local count = tonumber(ARGV[tail])
    for _, each_of in ipairs({...}) do
      at = tail + 1
      each(each_of[1], each_of[2], count)
    end
    tail = tail + 1 + count
  end
  tailed({'HDEL', KEYS[2]}, {'HDEL', KEYS[3]}, {'ZREM', KEYS[4]})
  tailed({'XDEL', KEYS[5]})
  tailed({'XDEL', KEYS[7]})
  tailed({'HSET', KEYS[8]})
  at = first
end
each('HSET', KEYS[2], hots)
each('HSET', KEYS[3], colds)
each('ZREM', KEYS[4], cleared)
each('ZADD', KEYS[4], timers)
for i = at, at + tonumber(ARGV[13]) - 1 do redis.call('XADD', KEYS[5], '*', 'm', ARGV[i]) end
local meta = {'ver', ARGV[4], 'part', ARGV[8], 'done', begun}
if ARGV[5] ~= '' then meta[7], meta[8] = 'off:' .. ARGV[5], ARGV[7] end
redis.call('HSET', KEYS[1], unpack(meta))
return {'OK', ''}
