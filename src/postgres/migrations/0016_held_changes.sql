-- A held change is decided by a person: it is done as far as it takes rights away, or dismissed. For that the log says what
-- a narrowed token has left.
alter table sallyport.lost_changes
  -- The token was enabled before its change was held.
  add column shut bool not null default false;

-- As before, with what is left of each narrowed list.
create or replace function sallyport.lowered(old sallyport.tokens, new sallyport.tokens) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select nullif(jsonb_strip_nulls(jsonb_build_object(
    'disabled', case when new.disabled and not old.disabled then true end,
    'expire_time', case when new.expire_time < coalesce(old.expire_time, 'infinity') then new.expire_time end,
    'narrowed', nullif(jsonb_strip_nulls(jsonb_build_object(
      'scopes', case when not new.scopes @> old.scopes then to_jsonb(new.scopes) end,
      'roles', case when not new.roles @> old.roles then to_jsonb(new.roles) end,
      'audiences', case when new.audiences <> '{}' and (old.audiences = '{}' or not new.audiences @> old.audiences)
        then to_jsonb(new.audiences) end,
      'allowed_cidrs', case when new.allowed_cidrs <> '{}'
        and (old.allowed_cidrs = '{}' or not new.allowed_cidrs @> old.allowed_cidrs) then to_jsonb(new.allowed_cidrs) end,
      'not_before_time', case when new.not_before_time > coalesce(old.not_before_time, '-infinity')
        then new.not_before_time end)), '{}'))), '{}')
$$;

-- As before; it also keeps in mind whether only the held change has disabled the token.
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
  closed bool := false;
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
          closed := not t.disabled and not c.change ? 'disabled';
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
    -- Somebody holds the row: later.
    when lock_not_available or deadlock_detected or serialization_failure then raise;
    when others then
      get stacked diagnostics code = returned_sqlstate;
      outcome := 'held';
      remark := 'it cannot be redone (' || code || ')';
  end;
  -- Two epochs may have lacked it before anybody redid it.
  update sallyport.lost_changes l set state = outcome, note = remark, shut = closed, done_time = clock_timestamp()
  where l.n = c.n and l.key = c.key and l.at = c.at and l.state = 'pending';
  return outcome || case when c.late then ' late' else '' end;
end $$;

-- An operator's decision on a held change: it is done as far as it takes away, and the token is enabled again if it was
-- disabled only for the meantime.
create function sallyport.lost_apply(change_id bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  t record;
  narrowed jsonb;
  kept text[];
  cidrs text[];
begin
  select l.id, l.n, l.key, l.change, l.state, l.shut into c from sallyport.lost_changes l where l.id = change_id for update;
  if not found or c.state <> 'held' then
    raise exception 'no held change has the id %', change_id using errcode = 'no_data_found';
  end if;
  narrowed := c.change->'narrowed';
  if narrowed is null or substr(c.key, 1, 1) <> 't'::bytea then
    raise exception 'the database does not know how to do it: do it by hand, then dismiss it' using errcode = 'data_exception';
  end if;
  select k.id, k.tenant, k.principal, k.audiences, k.allowed_cidrs, k.revoke_time into t
  from sallyport.tokens k where k.digest = substr(c.key, 2) for no key update;
  if t.revoke_time is null and t.id is not null then
    select case when narrowed ? 'audiences' then array(select jsonb_array_elements_text(narrowed->'audiences') intersect
        select unnest(case when t.audiences = '{}' then array(select jsonb_array_elements_text(narrowed->'audiences'))
          else t.audiences end)) else t.audiences end,
      case when narrowed ? 'allowed_cidrs' then array(select jsonb_array_elements_text(narrowed->'allowed_cidrs') intersect
        select unnest(case when t.allowed_cidrs = '{}' then array(select jsonb_array_elements_text(narrowed->'allowed_cidrs'))
          else t.allowed_cidrs end)) else t.allowed_cidrs end
    into kept, cidrs;
    -- An empty list would restrict nothing.
    if narrowed ? 'audiences' and kept = '{}' or narrowed ? 'allowed_cidrs' and cidrs = '{}' then
      raise exception 'nothing would be left of the token: revoke it, then dismiss the change'
        using errcode = 'data_exception';
    end if;
    update sallyport.tokens k set
      scopes = case when narrowed ? 'scopes' then array(select s from unnest(k.scopes) s
        where s in (select jsonb_array_elements_text(narrowed->'scopes')) order by s) else k.scopes end,
      roles = case when narrowed ? 'roles' then array(select s from unnest(k.roles) s
        where s in (select jsonb_array_elements_text(narrowed->'roles')) order by s) else k.roles end,
      audiences = kept,
      allowed_cidrs = cidrs,
      not_before_time = greatest(k.not_before_time, (narrowed->>'not_before_time')::timestamptz),
      disabled = k.disabled and not c.shut
    where k.id = t.id;
    insert into sallyport.audit (tenant, actor, action, target, owner, metadata)
    values (t.tenant, 'sql:' || session_user, 'token.update', 'token:' || t.id, t.principal,
      jsonb_build_object('replayed', 'true', 'position', c.n::text, 'held', c.id::text));
  end if;
  update sallyport.lost_changes l set state = 'applied', note = 'by ' || session_user, done_time = clock_timestamp()
  where l.id = c.id;
end $$;

-- An operator's decision: nothing is to be done, or it was done by hand.
create function sallyport.lost_dismiss(change_id bigint, reason text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.lost_changes l set state = 'dismissed', note = left(lost_dismiss.reason, 200) || ' (' || session_user || ')',
    done_time = clock_timestamp()
  where l.id = change_id and l.state = 'held';
  if not found then
    raise exception 'no held change has the id %', change_id using errcode = 'no_data_found';
  end if;
  insert into sallyport.audit (tenant, actor, action, target, metadata)
  values ('default', 'sql:' || session_user, 'lost_change.dismiss', 'lost_change:' || change_id,
    jsonb_build_object('reason', left(lost_dismiss.reason, 200)));
end $$;

revoke execute on function sallyport.lost_apply(bigint), sallyport.lost_dismiss(bigint, text) from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant execute on function sallyport.lost_apply(bigint), sallyport.lost_dismiss(bigint, text) to sallyport_writer;
  end if;
end $$;
