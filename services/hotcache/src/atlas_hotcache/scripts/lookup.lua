-- Entries and the state they go with, of one moment: the proof in marks.py speaks of one. Marks read after the entries
-- may have moved past a flush that the entries read before do not reflect.
-- KEYS: state hash, entry keys. Answers {fields of the state, this server's clock {s, us}, entries}.
local entries = {}
if #KEYS > 1 then
    entries = redis.call('MGET', unpack(KEYS, 2))
end
return {redis.call('HGETALL', KEYS[1]), redis.call('TIME'), entries}
