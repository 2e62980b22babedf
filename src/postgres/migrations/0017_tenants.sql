-- Tokens of several tenants. The tenants beside a token's own are in its row, each with the position at which it was
-- attached: the token's trigger, its lock and its etag cover them.
alter table sallyport.tokens
  add column tenants text[] collate "C" not null default '{}',
  add column tenants_n bigint[] not null default '{}';

-- In place of a constraint, whose check of the rows that exist would stop every reader. A position never rises: an
-- attachment that a cut has ended stays ended until it is taken away and made again.
create function sallyport.guard_attachments() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if cardinality(new.tenants) <> cardinality(new.tenants_n) or cardinality(new.tenants) > 16
     or array_position(new.tenants, null) is not null or array_position(new.tenants_n, null) is not null
     or new.tenant = any(new.tenants)
     or (select count(distinct id) from unnest(new.tenants) id) < cardinality(new.tenants) then
    raise exception 'each tenant of a token is another one, and has a position' using errcode = 'check_violation';
  end if;
  if new.roles <> '{}' then
    raise exception 'a token of several tenants holds no roles' using errcode = 'check_violation';
  end if;
  if exists (select from unnest(new.tenants) a (id) where not exists (select from sallyport.tenants o where o.id = a.id)) then
    raise exception 'a token is attached to tenants that exist' using errcode = 'foreign_key_violation';
  end if;
  if tg_op = 'UPDATE' and exists (
    select from unnest(old.tenants, old.tenants_n) a (id, n) join unnest(new.tenants, new.tenants_n) b (id, n) using (id)
    where b.n > a.n
  ) then
    raise exception 'the position of an attachment does not rise' using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger guard_attachments before insert or update on sallyport.tokens
  for each row when (new.tenants <> '{}' or new.tenants_n <> '{}') execute function sallyport.guard_attachments();
-- Replication roles fire it too.
alter table sallyport.tokens enable always trigger guard_attachments;
revoke execute on function sallyport.guard_attachments() from public;

-- As before; a token that loses a tenant is narrowed, too.
create or replace function sallyport.lowered(old sallyport.tokens, new sallyport.tokens) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select nullif(jsonb_strip_nulls(jsonb_build_object(
    'disabled', case when new.disabled and not old.disabled then true end,
    'expire_time', case when new.expire_time < coalesce(old.expire_time, 'infinity') then new.expire_time end,
    'narrowed', nullif(jsonb_strip_nulls(jsonb_build_object(
      'scopes', case when not new.scopes @> old.scopes then to_jsonb(new.scopes) end,
      'roles', case when not new.roles @> old.roles then to_jsonb(new.roles) end,
      'tenants', case when not new.tenants @> old.tenants then to_jsonb(new.tenants) end,
      'audiences', case when new.audiences <> '{}' and (old.audiences = '{}' or not new.audiences @> old.audiences)
        then to_jsonb(new.audiences) end,
      'allowed_cidrs', case when new.allowed_cidrs <> '{}'
        and (old.allowed_cidrs = '{}' or not new.allowed_cidrs @> old.allowed_cidrs) then to_jsonb(new.allowed_cidrs) end,
      'not_before_time', case when new.not_before_time > coalesce(old.not_before_time, '-infinity')
        then new.not_before_time end)), '{}'))), '{}')
$$;

-- As before; what is left of the tenants keeps its positions.
create or replace function sallyport.lost_apply(change_id bigint) returns void
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
      tenants = case when narrowed ? 'tenants' then array(select a.id from unnest(k.tenants) with ordinality a (id, place)
        where narrowed->'tenants' ? a.id order by a.place) else k.tenants end,
      tenants_n = case when narrowed ? 'tenants' then array(
        select a.n from unnest(k.tenants, k.tenants_n) with ordinality a (id, n, place)
        where narrowed->'tenants' ? a.id order by a.place) else k.tenants_n end,
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

-- The view is the one before, with the new columns at its end. Most tokens have one tenant: only for the others are further
-- tenants read. `live_tenants`: those of them in which the token counts now, as validation judges it: a child by no
-- attachment that is older than its parent's.
create or replace view sallyport.token_view with (security_invoker = true) as
select t.id, t.digest, t.kid, t.hint, t.tenant, t.profile, t.principal, t.display_name, t.description, t.scopes,
  t.audiences, t.allowed_cidrs, t.annotations, t.disabled, t.create_time, t.created_by, t.not_before_time,
  t.expire_time, t.revoke_time, t.revoked_by, t.revoke_reason, t.parent_id, t.family, t.rotated_from, t.rotated_to,
  t.issued_n, t.revision,
  u.last_use_time, u.last_use_address,
  case
    when t.revoke_time is not null or p.state = 'DELETED' or t.issued_n < p.cut_n or t.issued_n < o.cut_n
      or q.revoke_time is not null or q.disabled or q.expire_time <= c.now or q.issued_n < p.cut_n
      or q.issued_n < o.cut_n or q.not_before_time > c.now then 'REVOKED'
    when t.disabled or p.state <> 'ACTIVE' or o.state <> 'ACTIVE' then 'DISABLED'
    when t.expire_time <= c.now then 'EXPIRED'
    when t.not_before_time > c.now then 'NOT_YET_VALID'
    else 'ACTIVE'
  end as state,
  t.family_time, t.family_life,
  t.roles,
  case when t.roles = '{}' then '{}' else array(
    select r.name from sallyport.roles r where r.id = any(t.roles) and r.state = 'ACTIVE' order by r.name
  ) end as role_names,
  case when t.roles = '{}' then '{}' else array(
    select distinct s from sallyport.roles r, unnest(r.scopes) s where r.id = any(t.roles) and r.state = 'ACTIVE' order by s
  ) end as role_scopes,
  case when q.id is null then null when q.roles = '{}' then q.scopes else q.scopes || array(
    select distinct s from sallyport.roles r, unnest(r.scopes) s where r.id = any(q.roles) and r.state = 'ACTIVE' order by s
  ) end as parent_scopes,
  t.tenants,
  t.tenants_n,
  case when t.tenants = '{}' then '{}' else array(
    select a.id from unnest(t.tenants, t.tenants_n) with ordinality a (id, n, place)
      join sallyport.tenants x on x.id = a.id
    where x.state = 'ACTIVE' and a.n >= x.cut_n and (t.parent_id is null or exists (
      select from unnest(q.tenants, q.tenants_n) b (id, n) where b.id = a.id and b.n >= x.cut_n and b.n <= a.n))
    order by a.place
  ) end as live_tenants
from sallyport.tokens t
  join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id
  left join sallyport.token_usage u on u.token_id = t.id
  cross join (select clock_timestamp() as now offset 0) c;
