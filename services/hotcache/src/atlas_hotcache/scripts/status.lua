-- The state and who holds it, of one moment and of the server that has the shard's slot.
-- KEYS: state hash. Answers {fields of the state, run id, evicted keys}.
return {
    redis.call('HGETALL', KEYS[1]),
    string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '',
    string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)') or '',
}
