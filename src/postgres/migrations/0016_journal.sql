-- A journal of the log, in a database on another server, shows what a failover or a restored backup has lost, also where no
-- process remembers it. Once it is attached, no epoch is proven before it was compared with the log.

alter table sallyport.rev_state
  -- Names this database in its journal. A dump carries it.
  add column database uuid,
  add column journal bool not null default false,
  -- The journal has all changes of this history up to this position.
  add column journaled_n bigint not null default 0,
  -- The last epoch that the journal was compared with. What the journal has of earlier epochs was dealt with in it.
  add column compared text,
  -- The epoch that an operator lets begin without what the journal could say.
  add column waived text,
  -- Why the guard is closed, if the journal is the cause.
  add column mismatch text;
update sallyport.rev_state set database = gen_random_uuid();
alter table sallyport.rev_state alter column database set not null, alter column database set default gen_random_uuid();

create index lost_changes_identity on sallyport.lost_changes (n, key);

-- As before, but what an earlier epoch has noted is not noted again: the journal says it each time.
create or replace function sallyport.lost_report(epoch text, ns bigint[], keys bytea[], ats bigint[], kinds text[], changes text[])
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  state record;
begin
  if array_length(ns, 1) > 1000 or octet_length(array_to_string(changes, '')) > 4194304 then
    raise exception 'too much at once' using errcode = 'invalid_parameter_value';
  end if;
  -- The lock orders this against rev_prove: either it has proven the epoch already, or it sees these rows.
  select s.floor_n, s.proven is not distinct from lost_report.epoch as late into strict state
  from sallyport.rev_state s for share;
  if (select count(*) from sallyport.lost_changes c where c.state = 'pending') > 200000 then
    raise exception 'too many changes are pending' using errcode = 'configuration_limit_exceeded';
  end if;
  insert into sallyport.lost_changes (epoch, n, key, at, kind, change, late)
  select lost_report.epoch, r.n, r.key, r.at, r.kind, r.change, state.late
  from (
    select a.n, a.key, timestamptz 'epoch' + a.at * interval '1 microsecond' as at, a.kind, a.change::jsonb as change
    from unnest(ns, keys, ats, kinds, changes) a (n, key, at, kind, change)
  ) r
  where not exists (select from sallyport.lost_changes c where c.n = r.n and c.key = r.key and c.at = r.at)
  and case
    when r.n > state.floor_n then
      not exists (select from sallyport.rev_log l where l.n = r.n and l.key = r.key and l.at = r.at)
    when r.kind = 'revoked' then
      exists (select from sallyport.tokens t where t.digest = substr(r.key, 2) and t.revoke_time is null)
    when r.kind = 'cut' then
      exists (select from sallyport.principals p where p.tenant = r.change->>'tenant' and p.name = r.change->>'name'
        and (p.cut_time is null or p.cut_time < (r.change->>'cut_time')::timestamptz))
      or exists (select from sallyport.tenants o where o.id = r.change->>'tenant' and not r.change ? 'name'
        and (o.cut_time is null or o.cut_time < (r.change->>'cut_time')::timestamptz))
    else false
  end
  order by r.n, r.key, r.at
  on conflict do nothing;
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
end $$;

-- As before. Where a journal is attached, it must have been compared with this epoch, or an operator does without.
create or replace function sallyport.rev_prove(epoch text, waited bool) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from sallyport.rev_state s where s.proven = rev_prove.epoch and s.guard = 'ok') then
    return true;
  end if;
  if not waited and exists (
    select from sallyport.validators v
    where v.reaped_at is null and (v.epoch <> rev_prove.epoch or v.applied_n < 0)
  ) then
    return false;
  end if;
  perform from sallyport.rev_state for update;
  update sallyport.rev_state s set proven = rev_prove.epoch
  where s.proven is distinct from rev_prove.epoch and s.guard = 'ok'
    and (not s.journal or s.compared = rev_prove.epoch or s.waived = rev_prove.epoch)
    and not exists (select from sallyport.lost_changes c where c.state = 'pending');
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
  return exists (select from sallyport.rev_state s where s.proven = rev_prove.epoch and s.guard = 'ok');
end $$;

-- From here on epochs need the journal.
create function sallyport.journal_attach() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.rev_state s set journal = true where not s.journal;
end $$;

-- Everything that the journal has and this history lacks is noted. Opens the guard if the journal had closed it.
create function sallyport.journal_compared(epoch text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.rev_state s set compared = journal_compared.epoch, journal = true,
    guard = case when s.mismatch is null then s.guard else 'ok' end, mismatch = null
  where s.compared is distinct from journal_compared.epoch or s.mismatch is not null;
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
end $$;

-- As before. While an epoch needs the journal, nothing goes that it does not have: a change that is repeated must find its
-- first try in the log, or in the journal. So the log grows while the journal is away.
create or replace function sallyport.rev_raise_floor() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
begin
  update sallyport.rev_state s set floor_n = greatest(s.floor_n, least(
    (select h.n - 1000 from sallyport.rev_head h),
    coalesce((select l.n from sallyport.rev_log l where l.at < clock_timestamp() - interval '10 min'
      order by l.at desc, l.n desc limit 1), 0),
    -- Null counts for nothing.
    case when s.journal and s.waived is distinct from s.proven then s.journaled_n end))
  where s.proven = sallyport.rev_epoch();
  select s.floor_n into strict pos from sallyport.rev_state s;
  return pos;
end $$;

-- The journal is not the one of this database, or lacks changes: closes the guard. False if an operator does without it.
create function sallyport.journal_mismatch(epoch text, why text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from sallyport.rev_state for update;
  if exists (select from sallyport.rev_state s where s.waived = journal_mismatch.epoch) then
    return false;
  end if;
  update sallyport.rev_state s set guard = 'regressed', mismatch = left(why, 200), journal = true where s.guard = 'ok';
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
  return true;
end $$;

-- The journal has everything up to this position. Only in the epoch that was compared last: of its rows above this position
-- the next comparison asks.
create function sallyport.journal_reached(epoch text, n bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.rev_state s set journaled_n = journal_reached.n
  where s.compared = journal_reached.epoch and s.journaled_n < journal_reached.n;
end $$;

-- An operator's decision: this epoch begins although the journal lacks something (`gap`), or without the journal. `detach`:
-- no later epoch needs it either.
create function sallyport.journal_waive(gap bool, detach bool) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  s record;
begin
  select r.guard, r.mismatch, r.journal into strict s from sallyport.rev_state r for update;
  if gap and s.mismatch is null then
    raise exception 'the journal lacks nothing that anybody has found' using errcode = 'no_data_found';
  elsif not gap and s.mismatch is not null then
    raise exception 'the journal can be read, and does not fit (%): --accept-gap', s.mismatch using errcode = 'data_exception';
  elsif s.guard <> 'ok' and s.mismatch is null then
    raise exception 'somebody has closed the guard by hand' using errcode = 'data_exception';
  elsif not s.journal then
    raise exception 'no journal is attached' using errcode = 'no_data_found';
  end if;
  update sallyport.rev_state r set waived = sallyport.rev_epoch(), guard = 'ok', mismatch = null,
    journal = not detach, compared = case when not detach then r.compared end,
    -- The journal takes up again what the log has.
    journaled_n = case when gap or detach then 0 else r.journaled_n end;
  insert into sallyport.audit (tenant, actor, action, target, metadata)
  values ('default', 'sql:' || session_user, 'journal.waive', 'journal', jsonb_strip_nulls(jsonb_build_object(
    'mismatch', s.mismatch, 'detached', case when detach then 'true' end)));
  perform pg_notify('sallyport_rev', '');
end $$;

revoke execute on function
  sallyport.journal_attach(), sallyport.journal_compared(text), sallyport.journal_mismatch(text, text),
  sallyport.journal_reached(text, bigint), sallyport.journal_waive(bool, bool)
  from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant execute on function
      sallyport.journal_attach(), sallyport.journal_compared(text), sallyport.journal_mismatch(text, text),
      sallyport.journal_reached(text, bigint), sallyport.journal_waive(bool, bool)
      to sallyport_writer;
  end if;
end $$;

analyze sallyport.rev_state;
