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

-- Everybody who may report could otherwise take the place of a change with another kind or other facts. lost_report keeps
-- the rows apart.
alter table sallyport.lost_changes drop constraint lost_changes_epoch_n_key_at_key;
create index lost_changes_identity on sallyport.lost_changes (n, key);

-- As before, but what an earlier epoch has noted is not noted again: the journal says it each time. The same is only what
-- is the same in kind and facts.
create or replace function sallyport.lost_report(epoch text, ns bigint[], keys bytea[], ats bigint[], kinds text[], changes text[])
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  state record;
begin
  if array_length(ns, 1) > 1000 or octet_length(array_to_string(changes, '')) > 4194304 then
    raise exception 'too much at once' using errcode = 'invalid_parameter_value';
  end if;
  -- The lock orders this against rev_prove: either it has proven the epoch already, or it sees these rows. And against other
  -- reports: none notes what another is noting.
  select s.floor_n, s.proven is not distinct from lost_report.epoch as late into strict state
  from sallyport.rev_state s for no key update;
  if (select count(*) from sallyport.lost_changes c where c.state = 'pending') > 200000 then
    raise exception 'too many changes are pending' using errcode = 'configuration_limit_exceeded';
  end if;
  insert into sallyport.lost_changes (epoch, n, key, at, kind, change, late)
  select lost_report.epoch, r.n, r.key, r.at, r.kind, r.change, state.late
  from (
    select distinct a.n, a.key, timestamptz 'epoch' + a.at * interval '1 microsecond' as at, a.kind, a.change::jsonb as change
    from unnest(ns, keys, ats, kinds, changes) a (n, key, at, kind, change)
  ) r
  where not exists (select from sallyport.lost_changes c where c.n = r.n and c.key = r.key and c.at = r.at
    and c.kind = r.kind and c.change is not distinct from r.change)
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
  order by r.n, r.key, r.at;
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
end $$;

-- As before, but the outcome is noted only of what is the same in kind and facts.
create or replace function sallyport.lost_redo() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  t record;
  outcome text := 'noted';
  remark text := 'it took nothing away';
  facts jsonb;
  touched int;
  code text;
begin
  if not pg_try_advisory_xact_lock(7400740176) then
    return 'busy';
  end if;
  select l.id, l.n, l.key, l.at, l.kind, l.change, l.late into c
  from sallyport.lost_changes l where l.state = 'pending' order by l.n, l.id limit 1 for update;
  if not found then
    return null;
  end if;
  facts := jsonb_build_object('replayed', 'true', 'position', c.n::text,
    'time', to_char(c.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'));
  begin
    if c.key = '*'::bytea then
      outcome := 'held';
      remark := 'a change of everything: look for what it was';
    elsif substr(c.key, 1, 1) = 't'::bytea and c.kind <> 'other' then
      select k.id, k.tenant, k.principal, k.revoke_time, k.disabled, k.expire_time into t
      from sallyport.tokens k where k.digest = substr(c.key, 2) for no key update;
      if not found then
        remark := 'the token is not there';
      elsif c.kind = 'revoked' then
        if t.revoke_time is not null then
          remark := 'it is revoked';
        else
          update sallyport.tokens set revoke_time = date_trunc('milliseconds', clock_timestamp()),
            revoked_by = coalesce(c.change->>'by', ''), revoke_reason = coalesce(c.change->>'reason', '')
          where id = t.id;
          delete from sallyport.requests where caller = t.id;
          insert into sallyport.audit (tenant, actor, action, target, owner, metadata)
          values (t.tenant, 'sallyport', 'token.revoke', 'token:' || t.id, t.principal, facts
            || case when c.change->>'reason' <> '' then jsonb_build_object('reason', c.change->>'reason') else '{}' end);
          outcome := 'applied';
          remark := '';
        end if;
      else
        if t.revoke_time is null and (
          not t.disabled and (c.change ? 'disabled' or c.change ? 'narrowed')
          or (c.change->>'expire_time')::timestamptz < coalesce(t.expire_time, 'infinity')
        ) then
          update sallyport.tokens k set disabled = k.disabled or c.change ? 'disabled' or c.change ? 'narrowed',
            expire_time = least(k.expire_time, (c.change->>'expire_time')::timestamptz)
          where k.id = t.id;
          insert into sallyport.audit (tenant, actor, action, target, owner, metadata)
          values (t.tenant, 'sallyport', 'token.update', 'token:' || t.id, t.principal, facts);
          outcome := 'applied';
          remark := '';
        else
          remark := 'it is no wider';
        end if;
        -- Others may have changed the same lists since: the token stays disabled until somebody decides.
        if c.change ? 'narrowed' and t.revoke_time is null then
          outcome := 'held';
          remark := 'the token was narrowed; it is disabled instead';
        end if;
      end if;
    elsif substr(c.key, 1, 1) = 'p'::bytea and c.kind <> 'other' then
      -- Somebody who is not there must not come back as one who was never disabled.
      insert into sallyport.principals (tenant, name, state)
      select o.id, c.change->>'name', c.change->>'state' from sallyport.tenants o
      where o.id = c.change->>'tenant' and c.change ? 'state'
      on conflict do nothing;
      get diagnostics touched = row_count;
      update sallyport.principals p set
        state = case when c.change->>'state' = 'DELETED' or p.state = 'ACTIVE' and c.change->>'state' = 'DISABLED'
          then c.change->>'state' else p.state end,
        cut_time = case when c.change ? 'cut_time' then clock_timestamp() else p.cut_time end
      where p.tenant = c.change->>'tenant' and p.name = c.change->>'name' and (c.change ? 'cut_time'
        or p.state <> 'DELETED' and c.change->>'state' = 'DELETED' or p.state = 'ACTIVE' and c.change ? 'state');
      if found or touched > 0 then
        insert into sallyport.audit (tenant, actor, action, target, owner, metadata)
        values (c.change->>'tenant', 'sallyport', case when c.kind = 'cut' then 'tokens.revoke' else 'principal.update' end,
          'principal:' || (c.change->>'name'), c.change->>'name', facts);
        outcome := 'applied';
        remark := '';
      else
        remark := 'the principal is not there, or has no more than it should';
      end if;
    elsif substr(c.key, 1, 1) = 'o'::bytea and c.kind <> 'other' then
      update sallyport.tenants o set
        state = case when c.change ? 'state' then 'SUSPENDED' else o.state end,
        cut_time = case when c.change ? 'cut_time' then clock_timestamp() else o.cut_time end
      where o.id = c.change->>'tenant' and (c.change ? 'cut_time' or o.state = 'ACTIVE' and c.change ? 'state');
      if found then
        insert into sallyport.audit (tenant, actor, action, target, metadata)
        values (c.change->>'tenant', 'sallyport', case when c.kind = 'cut' then 'tokens.revoke' else 'tenant.update' end,
          'tenant:' || (c.change->>'tenant'), facts);
        outcome := 'applied';
        remark := '';
      else
        remark := 'the tenant is not there, or has no more than it should';
      end if;
    -- No key of a role exists before the table of roles does.
    elsif substr(c.key, 1, 1) = 'r'::bytea and c.kind <> 'other' then
      update sallyport.roles r set
        state = case when c.change ? 'deleted' then 'DELETED' else r.state end,
        scopes = array(select s from unnest(r.scopes) s where c.change ? 'deleted' or c.change->'scopes' ? s)
      where r.id = c.change->>'id' and r.state = 'ACTIVE'
        and (c.change ? 'deleted' or exists (select from unnest(r.scopes) s where not c.change->'scopes' ? s))
      returning r.tenant, r.name into t;
      if found then
        insert into sallyport.audit (tenant, actor, action, target, metadata)
        values (t.tenant, 'sallyport', case when c.change ? 'deleted' then 'role.delete' else 'role.update' end,
          'role:' || t.name, facts || jsonb_build_object('role', c.change->>'id'));
        outcome := 'applied';
        remark := '';
      else
        remark := 'the role is not there, or gives no more than it should';
      end if;
    end if;
    -- Here, so that an objection is one of this change, and stops no other.
    set constraints all immediate;
  exception
    -- Only an objection to the change itself holds it. What passes, such as a lock or a full disk, leaves it pending.
    when others then
      get stacked diagnostics code = returned_sqlstate;
      if left(code, 2) not in ('22', '23', '42', 'P0') then
        raise;
      end if;
      outcome := 'held';
      remark := 'it cannot be redone (' || code || ')';
  end;
  -- Two epochs may have lacked it before anybody redid it.
  update sallyport.lost_changes l set state = outcome, note = remark, done_time = clock_timestamp()
  where l.n = c.n and l.key = c.key and l.at = c.at and l.kind = c.kind and l.change is not distinct from c.change
    and l.state = 'pending';
  return outcome || case when c.late then ' late' else '' end;
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

-- The journal is not the one of this database, or lacks changes: closes the guard. False if an operator does without it, or
-- another process has found everything meanwhile.
create function sallyport.journal_mismatch(epoch text, why text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from sallyport.rev_state for update;
  if exists (
    select from sallyport.rev_state s where s.waived = journal_mismatch.epoch or s.compared = journal_mismatch.epoch
  ) then
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
