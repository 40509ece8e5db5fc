-- Begins a new generation: every entry there is becomes a miss.
-- KEYS: state hash. ARGV: the generation to end ('' if there is none); the new one; run id; source;
-- per lane its number and its mark "epoch:sequence".
-- Answers 1, or 0 if the generation to end is not the current one: someone else was faster, and
-- the marks it set may be ahead of ours by now.
local state = KEYS[1]
if (redis.call('HGET', state, 'generation') or '') ~= ARGV[1] then
    return 0
end
redis.call('DEL', state)
redis.call('HSET', state, 'generation', ARGV[2], 'run_id', ARGV[3], 'source', ARGV[4], unpack(ARGV, 5))
return 1
