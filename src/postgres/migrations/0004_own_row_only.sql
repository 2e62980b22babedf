-- A validator's row belongs to its process alone. Only functions write the registry; those for the own row ask for the
-- row's secret, of which the database keeps the SHA-256. So a stolen reader login cannot acknowledge for another process.

-- No secret has an empty hash: rows that are there already, or that a program of before makes as the owner, are nobody's
-- for the functions.
alter table sallyport.validators add column secret_hash bytea not null default '';

-- Registers `me` in place of `old`, a row of the same process. False: the database does not admit this validator.
create function sallyport.validator_join(
  old uuid, old_secret bytea, me uuid, hash bytea, epoch text, bound int, version int, kids text[]
) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if octet_length(hash) is distinct from 32 or bound < 1 or octet_length(epoch) > 512
     or octet_length(array_to_string(kids, ',')) > 4096 then
    raise exception 'this is not a registration' using errcode = 'invalid_parameter_value';
  end if;
  delete from sallyport.validators v where v.id = old and v.secret_hash = sha256(old_secret);
  -- Bounds what a stolen login can add: every wait for acknowledgements reads all rows.
  if (select count(*) from sallyport.validators) >= 10000 then
    raise exception 'too many validators are registered' using errcode = 'configuration_limit_exceeded';
  end if;
  insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids, secret_hash)
  select me, validator_join.epoch, bound, version, validator_join.kids, hash
  from sallyport.rev_state s where s.max_bound_ms >= bound and s.min_reader <= version;
  return found;
end $$;

-- An acknowledgement never falls, and never runs ahead of the log.
create function sallyport.validator_ack(me uuid, secret bytea, epoch text, applied bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if applied > (select n from sallyport.rev_head) then
    raise exception 'position % does not exist yet', applied using errcode = 'invalid_parameter_value';
  end if;
  update sallyport.validators v set applied_n = greatest(v.applied_n, applied), seen = clock_timestamp()
  where v.id = me and v.secret_hash = sha256(secret) and v.epoch = validator_ack.epoch and v.reaped_at is null;
  return found;
end $$;

create function sallyport.validator_seen(me uuid, secret bytea) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.validators v set seen = clock_timestamp()
  where v.id = me and v.secret_hash = sha256(secret) and v.reaped_at is null;
  return found;
end $$;

create function sallyport.validator_leave(me uuid, secret bytea) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  delete from sallyport.validators v where v.id = me and v.secret_hash = sha256(secret);
  return found;
end $$;

-- Housekeeping, for full processes. In id order: several of them reap and bury the same rows at once.
create function sallyport.validators_reap(ids uuid[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  done bigint;
begin
  with silent as (
    select id from sallyport.validators where id = any(ids) and reaped_at is null order by id for update
  )
  update sallyport.validators v set reaped_at = clock_timestamp() from silent where v.id = silent.id;
  get diagnostics done = row_count;
  return done;
end $$;

-- The caller waits by its own clock; that the database's clock agrees keeps a stolen login from burying a live lease.
create function sallyport.validators_bury(ids uuid[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  done bigint;
begin
  with corpses as (
    select id from sallyport.validators
    where id = any(ids) and reaped_at <= clock_timestamp() - 2 * bound_ms * interval '1 ms' order by id for update
  )
  delete from sallyport.validators v using corpses where v.id = corpses.id;
  get diagnostics done = row_count;
  return done;
end $$;

create function sallyport.rev_settle(epoch text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.rev_state s set settled = rev_settle.epoch where s.settled is distinct from rev_settle.epoch;
  return found;
end $$;

-- Longer than any cache keeps an entry. By the index on the time: positions and times grow together, and where a clock
-- was set back less is pruned.
create function sallyport.rev_raise_floor() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
begin
  update sallyport.rev_state set floor_n = greatest(floor_n, coalesce((
    select n from sallyport.rev_log where at < clock_timestamp() - interval '10 min' order by at desc, n desc limit 1), 0))
  returning floor_n into strict pos;
  return pos;
end $$;

-- Deletes what the floor covers, and nothing else.
create function sallyport.rev_prune(batch int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  done bigint;
begin
  delete from sallyport.rev_log where ctid = any(array(
    select l.ctid from sallyport.rev_log l
    where l.n <= (select s.floor_n from sallyport.rev_state s) order by l.n limit batch));
  get diagnostics done = row_count;
  return done;
end $$;

revoke execute on function
  sallyport.validator_join(uuid, bytea, uuid, bytea, text, int, int, text[]),
  sallyport.validator_ack(uuid, bytea, text, bigint), sallyport.validator_seen(uuid, bytea),
  sallyport.validator_leave(uuid, bytea), sallyport.validators_reap(uuid[]), sallyport.validators_bury(uuid[]),
  sallyport.rev_settle(text), sallyport.rev_raise_floor(), sallyport.rev_prune(int)
  from public;

-- Where the roles are missing, an administrator makes them and runs the same grants, after those of 0001.
do $$
declare
  role text;
begin
  for role in select rolname from pg_roles where rolname in ('sallyport_writer', 'sallyport_reader') loop
    execute format('revoke all on sallyport.validators from %I', role);
    execute format('grant select (id, epoch, applied_n, bound_ms, reader_version, kids, seen, reaped_at)
      on sallyport.validators to %I', role);
    execute format('grant execute on function
      sallyport.validator_join(uuid, bytea, uuid, bytea, text, int, int, text[]),
      sallyport.validator_ack(uuid, bytea, text, bigint), sallyport.validator_seen(uuid, bytea),
      sallyport.validator_leave(uuid, bytea) to %I', role);
  end loop;
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    revoke insert, update on sallyport.rev_state from sallyport_writer;
    revoke delete on sallyport.rev_log from sallyport_writer;
    grant execute on function sallyport.validators_reap(uuid[]), sallyport.validators_bury(uuid[]),
      sallyport.rev_settle(text), sallyport.rev_raise_floor(), sallyport.rev_prune(int) to sallyport_writer;
  end if;
end $$;

-- A planner without figures takes these tables for large ones, and JIT compiles their statements.
analyze sallyport.rev_head, sallyport.rev_state, sallyport.rev_log, sallyport.validators, sallyport.tenants;
