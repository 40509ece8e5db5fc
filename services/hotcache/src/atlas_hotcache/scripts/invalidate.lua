-- Puts tombstones, then moves the lane's mark if nothing is missing before it.
-- KEYS: state hash, entry keys. ARGV: ttl (ms); 'mark' to move the mark, or 'no'; lane; epoch;
-- sequence; a mark "epoch:sequence" from which nothing is missing to this position ('none': no mark), or
-- ''; the only generation in which it is to be done, or ''; per entry its version as text.
-- Answers {outcome, mark}. The tombstones come before the mark: whoever sees the mark has lost the
-- entries that it declares outdated.
local state = KEYS[1]
local generation = redis.call('HGET', state, 'generation')
if not generation or (ARGV[7] ~= '' and ARGV[7] ~= generation) then
    return {'empty', ''}
end
for i = 2, #KEYS do
    local version = ARGV[6 + i]
    local held = redis.call('GETRANGE', KEYS[i], 0, 31)
    if string.sub(held, 1, 16) ~= generation or string.sub(held, 17, 32) < version then
        redis.call('SET', KEYS[i], generation .. version .. 'T', 'PX', ARGV[1])
    end
end
if ARGV[2] ~= 'mark' then
    return {'advanced', ''}
end

local lane = ARGV[3]
local mark = redis.call('HGET', state, lane) or ''
local new_mark = ARGV[4] .. ':' .. ARGV[5]
local epoch, sequence = tonumber(ARGV[4]), tonumber(ARGV[5])
local mark_epoch, mark_sequence = string.match(mark, '^(%d+):(%d+)$')
if mark == '' then
    -- Every lane begins before sequence 1; a lane that is further and has no mark is not known.
    if sequence ~= 1 and ARGV[6] ~= 'none' then
        return {'gap', ''}
    end
elseif mark ~= ARGV[6] then
    mark_epoch, mark_sequence = tonumber(mark_epoch), tonumber(mark_sequence)
    if epoch > mark_epoch then
        return {'claimed', mark}
    elseif epoch < mark_epoch or sequence <= mark_sequence then
        return {'duplicate', mark}
    elseif sequence ~= mark_sequence + 1 then
        return {'gap', mark}
    end
end
redis.call('HSET', state, lane, new_mark)
return {'advanced', new_mark}
