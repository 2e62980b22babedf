-- A failover that loses commits, or a backup that is put back, brings tokens back to life. The log therefore says what
-- redoing a change needs; processes carry its newest rows over to the next epoch, and what the database lacks there is
-- redone before anything is allowed.

alter table sallyport.rev_log
  -- From the weakest to the strongest: of a row that a transaction changes several times, the strongest stays.
  add column kind text not null default 'other' check (kind in ('other', 'lowered', 'cut', 'revoked')),
  add column change jsonb;

alter table sallyport.rev_state
  -- The epoch in which nothing is missing that a process remembers, as far as anybody knows.
  add column proven text;

-- Changes that an epoch before this one had, and this one has not.
create table sallyport.lost_changes (
  id bigint generated always as identity primary key,
  -- The epoch that lacks it.
  epoch text not null,
  n bigint not null,
  key bytea not null,
  at timestamptz not null,
  kind text not null check (kind in ('other', 'lowered', 'cut', 'revoked')),
  change jsonb,
  state text not null default 'pending' check (state in ('pending', 'applied', 'held', 'noted', 'dismissed')),
  -- The epoch was proven already: a survivor that knew more came late.
  late bool not null default false,
  found_time timestamptz not null default clock_timestamp(),
  done_time timestamptz,
  note text not null default '',
  unique (epoch, n, key, at)
);
create index lost_changes_pending on sallyport.lost_changes (n, id) where state = 'pending';

-- -------------------------------------------------------------------------------------------------- what the log says
-- As before, with kind and change. Of several notes of a key in one transaction the strongest names the kind, and what
-- they say is put together.
create function sallyport.rev_note(key bytea, kind text, change jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  xid text := pg_current_xact_id()::text;
  memo text[] := string_to_array(current_setting('sallyport.rev', true), ':');
  pos bigint;
  noted int := 0;
begin
  if key is null then
    raise exception 'rev_note: no key';
  end if;
  if memo[1] = xid then
    pos := memo[2]::bigint;
    noted := memo[3]::int;
  else
    update sallyport.rev_head set n = n + 1 returning n into strict pos;
    if current_setting('synchronous_commit') in ('off', 'local') then
      perform set_config('synchronous_commit', 'on', true);
    end if;
    perform pg_notify('sallyport_rev', '');
  end if;
  if noted < 9999 then
    insert into sallyport.rev_log as l (n, key, kind, change) values (pos, rev_note.key, rev_note.kind, rev_note.change)
    on conflict on constraint rev_log_pkey do update set
      kind = case when excluded.kind = 'revoked' or l.kind = 'other' or l.kind = 'lowered' and excluded.kind = 'cut'
        then excluded.kind else l.kind end,
      change = coalesce(l.change, '{}') || coalesce(excluded.change, '{}')
    where excluded.kind <> 'other';
  elsif noted = 9999 then
    insert into sallyport.rev_log (n, key) values (pos, '*'::bytea) on conflict do nothing;
  end if;
  if noted < 10000 then
    perform set_config('sallyport.rev', xid || ':' || pos || ':' || (noted + 1), true);
  end if;
  return pos;
end $$;
revoke execute on function sallyport.rev_note(bytea, text, jsonb) from public;

create or replace function sallyport.rev_note(key bytea) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as
  $$ select sallyport.rev_note(key, 'other', null) $$;
revoke execute on function sallyport.rev_note(bytea) from public;

-- What a change of a token takes away; null if nothing. Where a list restricts only if it has entries, the first entry
-- takes away too.
create function sallyport.lowered(old sallyport.tokens, new sallyport.tokens) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select nullif(jsonb_strip_nulls(jsonb_build_object(
    'disabled', case when new.disabled and not old.disabled then true end,
    'expire_time', case when new.expire_time < coalesce(old.expire_time, 'infinity') then new.expire_time end,
    'narrowed', case when not new.scopes @> old.scopes
      or new.audiences <> '{}' and (old.audiences = '{}' or not new.audiences @> old.audiences)
      or new.allowed_cidrs <> '{}' and (old.allowed_cidrs = '{}' or not new.allowed_cidrs @> old.allowed_cidrs)
      or new.not_before_time > coalesce(old.not_before_time, '-infinity') then true end)), '{}')
$$;

create or replace function sallyport.note_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  takes jsonb;
begin
  if tg_op = 'DELETE' then
    -- What was over before takes nothing away by going.
    if old.revoke_time is null and (old.expire_time is null or old.expire_time > clock_timestamp()) then
      perform sallyport.rev_note('t'::bytea || old.digest, 'revoked',
        jsonb_build_object('id', old.id, 'by', 'sql:' || session_user, 'reason', 'the row was deleted'));
    else
      perform sallyport.rev_note('t'::bytea || old.digest, 'other', null);
    end if;
    return null;
  end if;
  if new.revoke_time is not null and old.revoke_time is null then
    perform sallyport.rev_note('t'::bytea || old.digest, 'revoked',
      jsonb_build_object('id', new.id, 'by', new.revoked_by, 'reason', new.revoke_reason));
  else
    takes := sallyport.lowered(old, new);
    if takes is null then
      perform sallyport.rev_note('t'::bytea || old.digest, 'other', null);
    else
      perform sallyport.rev_note('t'::bytea || old.digest, 'lowered', takes || jsonb_build_object('id', new.id));
    end if;
  end if;
  if new.digest <> old.digest then
    perform sallyport.rev_note('t'::bytea || new.digest, 'other', null);
  end if;
  return null;
end $$;

create or replace function sallyport.note_principal() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
  touched int;
  cut bool;
  change jsonb;
begin
  if tg_op = 'DELETE' then
    perform sallyport.rev_note(sallyport.principal_key(old.tenant, old.name), 'other', null);
    return null;
  end if;
  if tg_op = 'UPDATE' and (new.tenant, new.name) is distinct from (old.tenant, old.name) then
    perform sallyport.rev_note(sallyport.principal_key(old.tenant, old.name), 'other', null);
  end if;
  cut := new.cut_time is not null and (tg_op = 'INSERT' or new.cut_time is distinct from old.cut_time);
  change := jsonb_build_object('tenant', new.tenant, 'name', new.name);
  if cut then
    change := change || jsonb_build_object('cut_time', new.cut_time);
  end if;
  if new.state <> 'ACTIVE' and (tg_op = 'INSERT' or old.state is distinct from new.state) then
    change := change || jsonb_build_object('state', new.state);
  end if;
  pos := sallyport.rev_note(sallyport.principal_key(new.tenant, new.name),
    case when cut then 'cut' when change ? 'state' then 'lowered' else 'other' end, change);
  if cut then
    update sallyport.principals set cut_n = pos where tenant = new.tenant and name = new.name;
    get diagnostics touched = row_count;
    if touched <> 1 then
      raise exception 'a cut must set exactly one row, not %', touched;
    end if;
  end if;
  return null;
end $$;

create or replace function sallyport.note_tenant() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
  touched int;
  cut bool;
  change jsonb;
begin
  if tg_op = 'DELETE' then
    perform sallyport.rev_note(sallyport.tenant_key(old.id), 'other', null);
    return null;
  end if;
  if tg_op = 'UPDATE' and new.id <> old.id then
    perform sallyport.rev_note(sallyport.tenant_key(old.id), 'other', null);
  end if;
  cut := new.cut_time is not null and (tg_op = 'INSERT' or new.cut_time is distinct from old.cut_time);
  change := jsonb_build_object('tenant', new.id);
  if cut then
    change := change || jsonb_build_object('cut_time', new.cut_time);
  end if;
  if new.state <> 'ACTIVE' and (tg_op = 'INSERT' or old.state is distinct from new.state) then
    change := change || jsonb_build_object('state', new.state);
  end if;
  pos := sallyport.rev_note(sallyport.tenant_key(new.id),
    case when cut then 'cut' when change ? 'state' then 'lowered' else 'other' end, change);
  if cut then
    update sallyport.tenants set cut_n = pos where id = new.id;
    get diagnostics touched = row_count;
    if touched <> 1 then
      raise exception 'a cut must set exactly one row, not %', touched;
    end if;
  end if;
  return null;
end $$;

-- -------------------------------------------------------------------------------------------------- proving an epoch
-- Notes what this history lacks of what a process remembers. Present is a change that the log has with this position, key
-- and time, or one below the floor; of the latter, a final one counts as missing where its row does not show it.
create function sallyport.lost_report(epoch text, ns bigint[], keys bytea[], ats bigint[], kinds text[], changes text[])
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
  where case
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

-- From here on tokens are allowed in this epoch. Refused while something is pending, and while the registry has a process
-- that may remember more: its row is of another epoch, or it has not acknowledged in this one yet, which it does after it
-- has noted what is missing. A process that has waited for all earlier leases (`waited`) does not wait for the others: they
-- are gone, or report late.
create function sallyport.rev_prove(epoch text, waited bool) returns bool
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
    and not exists (select from sallyport.lost_changes c where c.state = 'pending');
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
  return exists (select from sallyport.rev_state s where s.proven = rev_prove.epoch and s.guard = 'ok');
end $$;

-- Redoes the first pending change, in this transaction, and says what became of it. What it took away is taken away again:
-- never more is given than there is. Null: nothing is pending.
create function sallyport.lost_redo() returns text
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
  where l.n = c.n and l.key = c.key and l.at = c.at and l.state = 'pending';
  return outcome || case when c.late then ' late' else '' end;
end $$;

-- The epoch as the program's statements spell it (src/postgres/evidence.ts).
create function sallyport.rev_epoch() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(case when not pg_is_in_recovery()
      then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end, '-')
    || '/' || s.incarnation || '/' || (extract(epoch from pg_postmaster_start_time()) * 1e6)::bigint
    || '/' || h.tableoid || ':' || pg_relation_filepath(h.tableoid)
    || '/' || s.tableoid || ':' || pg_relation_filepath(s.tableoid)
    || case when h.sealed = h.xmin and s.sealed = s.xmin then '' else '~' end
  from (select sealed, xmin, tableoid from sallyport.rev_head limit 1) h
    cross join (select incarnation, sealed, xmin, tableoid from sallyport.rev_state limit 1) s
$$;

-- As before, but the newest 1,000 positions stay, and nothing goes in an epoch that is not proven: by the log the
-- processes tell what an epoch lacks.
create or replace function sallyport.rev_raise_floor() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
begin
  update sallyport.rev_state set floor_n = greatest(floor_n, least((select n - 1000 from sallyport.rev_head), coalesce((
    select n from sallyport.rev_log where at < clock_timestamp() - interval '10 min' order by at desc, n desc limit 1), 0)))
  where proven = sallyport.rev_epoch();
  select floor_n into strict pos from sallyport.rev_state;
  return pos;
end $$;

revoke execute on function
  sallyport.lowered(sallyport.tokens, sallyport.tokens), sallyport.rev_epoch(),
  sallyport.lost_report(text, bigint[], bytea[], bigint[], text[], text[]), sallyport.rev_prove(text, bool),
  sallyport.lost_redo()
  from public;

-- Where the roles are missing, an administrator makes them and runs the same grants, after those of before.
do $$
declare
  role text;
begin
  for role in select rolname from pg_roles where rolname in ('sallyport_writer', 'sallyport_reader') loop
    execute format('grant select on sallyport.lost_changes to %I', role);
    execute format('grant execute on function
      sallyport.lost_report(text, bigint[], bytea[], bigint[], text[], text[]), sallyport.rev_prove(text, bool) to %I', role);
  end loop;
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant execute on function sallyport.lost_redo() to sallyport_writer;
  end if;
end $$;

analyze sallyport.rev_state, sallyport.lost_changes;
