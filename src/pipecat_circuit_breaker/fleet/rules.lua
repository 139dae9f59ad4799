-- Copyright (c) 2026, the pipecat-circuit-breaker authors
-- SPDX-License-Identifier: BSD 2-Clause License
--
-- What each step of a store does to a record: rules.py in the language of the server,
-- where a script is one step, whoever else asks.
--
-- KEYS: records (hash), history (list), mode, and of the outage at hand the bots and the
--   instances that have seen it (HyperLogLog). All share one hash tag.
-- ARGV: the step; when it was sent, on this server's clock as the client knows it, or
--   empty; for how many seconds the client waits; what the step needs, as JSON.
-- Answers: {'late', now}; {'ok', now, 1 if it did what it is for, record or ''}; or, of
--   reading, {'ok', now, mode, {name, record, ...}, {record, ...}}.
--
-- Nothing here trusts what is kept: a record that is not one of ours is as none.

local step, sent_at, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ask = cjson.decode(ARGV[4])

local DAY = 86400
local AHEAD = 60 -- Seconds that a record may be ahead of this clock, after a failover.

-- cjson writes 14 digits: milliseconds fit.
local function ms(secs) return math.floor(secs * 1000 + 0.5) / 1000 end

local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000) / 1000

local function answer(...) return {'ok', string.format('%.3f', now), ...} end

-- A server that was stopped carries out on waking what nobody waits for any more.
if not sent_at or now - sent_at > patience then
  return {'late', string.format('%.3f', now)}
end

-- Reading ---------------------------------------------------------------------

local function number(value, most)
  return type(value) == 'number' and value >= 0 and value <= most and value or nil
end

local function is_there(value) return value ~= nil and value ~= cjson.null end

local function text(value) return type(value) == 'string' and value or nil end

-- Names of instances, and when each was heard of.
local function instances(found)
  if type(found) ~= 'table' then return nil end
  local read, count = {}, 0
  for instance, seen in pairs(found) do
    count = count + 1
    if count > ask.max_instances or not text(instance) or not number(seen, now + AHEAD) then
      return nil
    end
    read[instance] = seen
  end
  return read
end

-- The record, made anew of what is known and sound; nil where anything is not.
local function sound(name, json)
  if not json then return nil end
  local ok, found = pcall(cjson.decode, json)
  if not ok or type(found) ~= 'table' then return nil end
  if found.version ~= 1 or found.key ~= name then return nil end
  local record = {version = 1, key = name, state = found.state}
  if found.state ~= 'suspected' and found.state ~= 'open' and found.state ~= 'closed' then
    return nil
  end
  for _, field in ipairs({
    'generation', 'openings', 'failures', 'instance_count', 'bots', 'lost_probes'
  }) do
    record[field] = number(found[field], 1e14)
    if not record[field] then return nil end
  end
  record.seen_at = number(found.seen_at, now + AHEAD)
  record.hold_secs = number(found.hold_secs, DAY)
  record.wait_secs = number(found.wait_secs, ask.max_wait)
  if not (record.seen_at and record.hold_secs and record.wait_secs) then return nil end
  for field, most in pairs({
    opened_at = now + AHEAD, closed_at = now + AHEAD, told_at = now + AHEAD,
    probe_at = now + AHEAD + ask.max_wait
  }) do
    if is_there(found[field]) then
      record[field] = number(found[field], most)
      if not record[field] then return nil end
    end
  end
  record.is_by_hand = found.is_by_hand == true
  if record.state == 'open' and not record.opened_at then return nil end
  if record.state == 'open' and not record.is_by_hand and not record.probe_at then return nil end
  if record.state == 'closed' and not record.closed_at then return nil end
  for _, field in ipairs({'opened_by', 'closed_by', 'ending', 'why', 'changed_by'}) do
    record[field] = text(found[field])
  end
  record.why, record.changed_by = record.why or '', record.changed_by or ''
  record.instances = instances(found.instances)
  record.instances_before = instances(found.instances_before == nil and {} or found.instances_before)
  if not (record.instances and record.instances_before) then return nil end
  local lease = found.lease
  if is_there(lease) then
    if type(lease) ~= 'table' then return nil end
    if not (text(lease.holder) and text(lease.token) and number(lease.expires_at, now + AHEAD + DAY))
    then return nil end
    record.lease = {holder = lease.holder, token = lease.token, expires_at = lease.expires_at}
  end
  return record
end

local function expires_at(record)
  if record.state == 'closed' then return record.closed_at + ask.tombstone end
  local at = record.seen_at + record.hold_secs
  if record.state == 'suspected' and record.closed_at then
    -- It also says when the one before was over.
    return math.max(at, record.closed_at + ask.tombstone)
  end
  return at
end

-- Writing ---------------------------------------------------------------------

local function keep(record)
  local json = cjson.encode(record)
  redis.call('HSET', KEYS[1], record.key, json)
  redis.call('PEXPIRE', KEYS[1], 2 * DAY * 1000)
  return json
end

local function tell(record)
  redis.call('PUBLISH', ask.news, 'o' .. cjson.encode(record))
end

local function remember(record)
  redis.call('LPUSH', KEYS[2], cjson.encode(record))
  redis.call('LTRIM', KEYS[2], 0, ask.max_history - 1)
  redis.call('PEXPIRE', KEYS[2], 7 * DAY * 1000)
end

-- Keeps the record after a step that did what it is for.
local function done(record)
  record.told_at = now
  local json = keep(record)
  if record.state == 'closed' then remember(record) end
  tell(record)
  return answer(1, json)
end

local function close(record, at, ending, who)
  record.state, record.closed_at, record.ending, record.closed_by = 'closed', at, ending, who
  record.generation = record.generation + 1
  record.probe_at, record.lease = nil, nil
end

-- The record of a key and its JSON, once what has run out by now is put away.
local function look(name)
  local size = redis.call('HSTRLEN', KEYS[1], name)
  if size == 0 then return nil, '' end
  local json = size <= ask.max_bytes and redis.call('HGET', KEYS[1], name)
  local record = sound(name, json)
  if record and record.state == 'open' and expires_at(record) <= now then
    -- It was over when it ran out: what fails now is new.
    close(record, expires_at(record), 'forgotten', nil)
    record.changed_by = ask.token or ''
    json = keep(record)
    remember(record)
    tell(record)
  end
  if not record or expires_at(record) <= now then
    redis.call('HDEL', KEYS[1], name)
    return nil, ''
  end
  return record, json
end

local function sweep()
  local kept = {}
  -- More than were ever put there: whoever did that, nothing in it can be relied upon.
  if redis.call('HLEN', KEYS[1]) > ask.max_outages then redis.call('DEL', KEYS[1]) end
  for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    local record, json = look(name)
    if record then
      kept[#kept + 1] = name
      kept[#kept + 1] = json
    end
  end
  return kept
end

local function has_room()
  return redis.call('HLEN', KEYS[1]) < ask.max_outages or #sweep() / 2 < ask.max_outages
end

-- About how many different names there were; one of another type is as none.
local function count(key, names)
  local function try()
    local added = redis.pcall('PFADD', key, unpack(names))
    if type(added) == 'table' and added.err then return added end
    return redis.pcall('PFCOUNT', key)
  end
  local counted = try()
  if type(counted) == 'table' and counted.err
    and (string.find(counted.err, 'WRONGTYPE') or string.find(counted.err, 'INVALIDOBJ')) then
    redis.call('DEL', key)
    counted = try()
  end
  if type(counted) == 'table' then error(counted.err) end
  redis.call('PEXPIRE', key, 2 * DAY * 1000)
  return counted
end

local function begin(before)
  redis.call('DEL', KEYS[4], KEYS[5])
  return {
    version = 1, key = ask.key, state = 'suspected', instances = {},
    generation = before and before.generation or 0,
    closed_at = before and before.closed_at or nil,
    instances_before = before and before.ending == 'recovered' and before.instances or {},
    seen_at = now, hold_secs = 0, wait_secs = 0, openings = 0, failures = 0,
    instance_count = 0, bots = 0, lost_probes = 0, is_by_hand = false, why = '', changed_by = ''
  }
end

-- Whether nobody has seen it but those whose outage has just recovered: see rules.py.
local function is_relapse(record)
  if not record.closed_at or now >= record.closed_at + ask.tombstone then return false end
  for instance in pairs(record.instances) do
    if not record.instances_before[instance] then return false end
  end
  return true
end

-- Steps -----------------------------------------------------------------------

local steps = {}

function steps.report(record, json)
  -- Both on this clock; late by less than the client's patience.
  local at = ms(math.min(now, sent_at) - ask.age)
  local is_open = record and record.state == 'open'
  if now - at > math.min(ask.vote, ask.tombstone) then return answer(0, json) end
  if not is_open then
    local before = record and record.closed_at
    if not ask.votes or (before and at < before) then return answer(0, json) end
  end
  if not record then
    if not has_room() then return answer(0, '') end
    record = begin()
  elseif record.state == 'closed' then
    record = begin(record)
  end
  local names = 0
  for instance, seen in pairs(record.instances) do
    if not is_open and seen <= now - ask.vote then
      record.instances[instance] = nil
    else
      names = names + 1
    end
  end
  local known = record.instances[ask.instance]
  if known or names < ask.max_instances then
    if not known then names = names + 1 end
    record.instances[ask.instance] = math.max(at, known or at)
  end
  if ask.votes then record.seen_at = record.failures > 0 and math.max(at, record.seen_at) or at end
  record.failures = record.failures + ask.failures
  if #ask.bots > 0 then record.bots = count(KEYS[4], ask.bots) end
  record.instance_count = math.max(names, count(KEYS[5], {ask.instance}))
  if is_open then
    if ask.votes and not record.is_by_hand then record.hold_secs = ask.hold end
  elseif names < ask.need or is_relapse(record) then
    record.hold_secs = ask.vote
  else
    record.state, record.opened_at, record.closed_at = 'open', now, nil
    record.instances_before = {}
    record.generation = record.generation + 1
    record.hold_secs, record.openings = ask.hold, 1
    record.wait_secs, record.probe_at = ask.waits[1], ms(now + ask.waits[1])
    record.opened_by, record.changed_by = ask.instance, ask.token
    return done(record)
  end
  local is_news = not record.told_at or now - record.told_at >= ask.news_secs
  if is_news then record.told_at = now end
  json = keep(record)
  if is_news then tell(record) end
  return answer(0, json)
end

function steps.lease(record, json)
  if not record or record.state ~= 'open' or not record.probe_at or now < record.probe_at then
    return answer(0, json)
  end
  if record.lease then
    if now < record.lease.expires_at then return answer(0, json) end
    record.lost_probes = record.lost_probes + 1
  end
  record.lease = {
    holder = ask.instance, token = ask.token, expires_at = ms(now + ask.lease_secs)
  }
  return done(record)
end

function steps.settle(record, json)
  local lease = record and record.state == 'open' and record.lease
  if not lease or record.generation ~= ask.generation or lease.token ~= ask.token
    or lease.expires_at <= now then
    return answer(0, json)
  end
  if ask.success then
    close(record, now, 'recovered', lease.holder)
    record.changed_by = ask.token
    return done(record)
  end
  local wait = ask.waits[math.min(record.openings + 1, #ask.waits)]
  record.generation, record.openings = record.generation + 1, record.openings + 1
  record.seen_at, record.wait_secs, record.probe_at = now, wait, ms(now + wait)
  record.lease = nil
  return done(record)
end

function steps.open(record)
  if not record and not has_room() then return answer(0, '') end
  if not record or record.state == 'closed' then record = begin(record) end
  if record.state ~= 'open' then
    record.state, record.opened_at, record.openings, record.closed_at = 'open', now, 1, nil
    record.instances_before = {}
  end
  record.generation = record.generation + 1
  record.seen_at, record.hold_secs, record.wait_secs = now, ask.hold, 0
  record.probe_at, record.lease = nil, nil
  record.opened_by, record.why = ask.who, ask.why
  record.is_by_hand, record.changed_by = true, ''
  return done(record)
end

function steps.close(record, json)
  if not record or record.state ~= 'open' then return answer(0, json) end
  close(record, now, 'by_hand', ask.who)
  record.why, record.changed_by = ask.why, ''
  return done(record)
end

function steps.mode()
  local json = cjson.encode({
    version = 1, mode = ask.mode, who = ask.who, why = ask.why, at = now
  })
  redis.call('SET', KEYS[3], json, 'PX', math.max(1, math.floor(ask.hold * 1000)))
  redis.call('PUBLISH', ask.news, 'm' .. json)
  return answer(1, json)
end

local function all(outages)
  local mode = redis.call('GET', KEYS[3]) or ''
  local history = {}
  for _, json in ipairs(redis.call('LRANGE', KEYS[2], 0, ask.max_history - 1)) do
    if #json <= ask.max_bytes then history[#history + 1] = json end
  end
  return answer(#mode <= ask.max_bytes and mode or '', outages, history)
end

-- As it is: thousands of processes read, and looking into 256 records takes 3 ms.
function steps.read()
  if redis.call('HLEN', KEYS[1]) > ask.max_outages then return all(sweep()) end
  local outages = {}
  for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    local is_short = redis.call('HSTRLEN', KEYS[1], name) <= ask.max_bytes
    outages[#outages + 1] = name
    outages[#outages + 1] = is_short and redis.call('HGET', KEYS[1], name) or ''
  end
  return all(outages)
end

-- For a reader that has found what has run out, or what is none of ours.
function steps.sweep() return all(sweep()) end

-- What a reader could not make sense of, and this script could; unless it was written anew.
function steps.drop()
  if redis.call('HGET', KEYS[1], ARGV[5]) == ARGV[6] then
    redis.call('HDEL', KEYS[1], ARGV[5])
  end
  return answer(1, '')
end

-- A step is carried out whole or not at all: what is of another type fails before the
-- first write.
redis.call('LLEN', KEYS[2])
if not ask.key then return steps[step]() end
return steps[step](look(ask.key))
