-- A held change is decided by a person: it is done as far as it takes rights away, or dismissed. For that the log says what
-- a narrowed token has left.

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

-- An operator's decision on a held change: it is done as far as it takes away. It enables no token: somebody may have
-- disabled it since, and nobody can tell here.
create function sallyport.lost_apply(change_id bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  t record;
  narrowed jsonb;
  kept text[];
  cidrs text[];
begin
  select l.id, l.n, l.key, l.change, l.state into c from sallyport.lost_changes l where l.id = change_id for update;
  if not found or c.state <> 'held' then
    raise exception 'no held change has the id %', change_id using errcode = 'no_data_found';
  end if;
  narrowed := c.change->'narrowed';
  -- Programs before this one noted only that a token was narrowed, not what it had left.
  if jsonb_typeof(narrowed) is distinct from 'object' or substr(c.key, 1, 1) <> 't'::bytea then
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
      not_before_time = greatest(k.not_before_time, (narrowed->>'not_before_time')::timestamptz)
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
