-- Stores what was read from the primary, unless something newer is known.
-- KEYS: state hash, entry keys. ARGV: generation the fill began with; the primary's history its
-- snapshot is of; this server's clock (us) until which it may come; evicted_keys when it began ('' if
-- unknown); ttl (ms); number of positions; per position lane, epoch, sequence of the snapshot; per
-- entry its bytes.
-- Answers {stored, refused}. Why each condition is needed: see marks.py.
local state = KEYS[1]
local generation = ARGV[1]
local entry_count = #KEYS - 1
local belongs = redis.call('HMGET', state, 'generation', 'source', 'run_id')
if belongs[1] ~= generation or belongs[2] ~= ARGV[2] then
    return {0, entry_count}
end

local positions = {}
local argument = 7
for _ = 1, tonumber(ARGV[6]) do
    positions[ARGV[argument]] = {tonumber(ARGV[argument + 1]), tonumber(ARGV[argument + 2])}
    argument = argument + 3
end

-- 'lane' is the lane's mark, 's' .. lane the furthest position that an entry reflects.
local held_positions = {}
local fields = redis.call('HGETALL', state)
for i = 1, #fields, 2 do
    local epoch, sequence = string.match(fields[i + 1], '^(%d+):(%d+)$')
    if epoch then
        held_positions[fields[i]] = {tonumber(epoch), tonumber(sequence)}
    end
end

local function is_before(left, right)
    return not left or left[1] < right[1] or (left[1] == right[1] and left[2] < right[2])
end

-- Has the snapshot seen every flush that has been applied here?
local covers = true
for field, mark in pairs(held_positions) do
    if string.match(field, '^%d+$') then
        local seen = positions[field]
        if not seen or seen[1] < mark[1] or seen[2] < mark[2] then
            covers = false
        end
    end
end

-- If not, the tombstones decide. They must all be there still: none expired, none evicted. And time and evictions must
-- be counted by who counted them when the fill began: a server that was started from a dump, or a replica that took
-- over, has the marks of a tombstone that was evicted before, and has evicted nothing itself.
if not covers then
    if string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') ~= belongs[3] then
        return {0, entry_count}
    end
    local now = redis.call('TIME')
    if tonumber(now[1]) * 1000000 + tonumber(now[2]) > tonumber(ARGV[3]) then
        return {0, entry_count}
    end
    local evicted = string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)')
    if evicted ~= ARGV[4] then
        return {0, entry_count}
    end
end

local stored = 0
for i = 2, #KEYS do
    local bytes = ARGV[argument]
    argument = argument + 1
    local held = redis.call('GETRANGE', KEYS[i], 0, 31)
    -- Generation and version as text of one width: the greater text of one generation is newer.
    if string.sub(held, 1, 16) ~= generation or string.sub(held, 17, 32) <= string.sub(bytes, 17, 32) then
        redis.call('SET', KEYS[i], bytes, 'PX', ARGV[5])
        stored = stored + 1
    end
end
if stored > 0 then
    for lane, seen in pairs(positions) do
        if is_before(held_positions[lane], seen) and is_before(held_positions['s' .. lane], seen) then
            redis.call('HSET', state, 's' .. lane, string.format('%.0f:%.0f', seen[1], seen[2]))
        end
    end
end
return {stored, entry_count - stored}
