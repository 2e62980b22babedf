-- Named lists of scopes. The bindings are in the token's row: its trigger, its lock and its etag cover them.
create table sallyport.roles (
  id text collate "C" primary key check (id ~ '^rol_[0-9A-Za-z]{22}$'),
  tenant text collate "C" not null references sallyport.tenants (id),
  name text collate "C" not null check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
  description text not null default '',
  scopes text[] collate "C" not null default '{}' check (cardinality(scopes) <= 100),
  administrative bool not null default false,
  state text not null default 'ACTIVE' check (state in ('ACTIVE', 'DELETED')),
  create_time timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  revision int not null default 1
);
-- A name that is made again is a new role: tokens that held the old one do not hold it.
create unique index roles_by_name on sallyport.roles (tenant, name) where state = 'ACTIVE';
create index roles_newest on sallyport.roles (tenant, create_time desc, id desc);

-- Ids of roles of the token's own tenant.
alter table sallyport.tokens
  add column roles text[] collate "C" not null default '{}';
-- Checked against the rows that exist, and indexed, in a later file: under this lock nobody could read a token meanwhile.
alter table sallyport.tokens add constraint tokens_roles_check check (cardinality(roles) <= 16) not valid;

create function sallyport.role_key(id text) returns bytea
language sql immutable strict as $$ select 'r'::bytea || convert_to(id, 'UTF8') $$;

-- As for principals and tenants: a grant commits before the change of a role, or sees it.
create function sallyport.guard_role() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(sallyport.lock_id(sallyport.role_key(old.id)));
  if tg_op = 'DELETE' then
    return old;
  end if;
  if (new.id, new.tenant, new.name, new.administrative, new.create_time)
     is distinct from (old.id, old.tenant, old.name, old.administrative, old.create_time) then
    raise exception 'what a role is cannot be changed' using errcode = 'check_violation';
  end if;
  if old.state = 'DELETED' and new.state <> 'DELETED' then
    raise exception 'a deleted role stays deleted' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger guard before update or delete on sallyport.roles
  for each row execute function sallyport.guard_role();

-- What a change takes away is said in the log, so that it can be redone where a failover lost it.
create function sallyport.note_role() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  change jsonb := jsonb_build_object('id', old.id);
begin
  if old.state = 'ACTIVE' and (tg_op = 'DELETE' or new.state <> 'ACTIVE') then
    change := change || '{"deleted": true}';
  elsif tg_op = 'UPDATE' and not new.scopes @> old.scopes then
    change := change || jsonb_build_object('scopes', to_jsonb(new.scopes));
  end if;
  perform sallyport.rev_note(sallyport.role_key(old.id),
    case when change ? 'deleted' or change ? 'scopes' then 'lowered' else 'other' end, change);
  return null;
end $$;
create constraint trigger noted_update after update on sallyport.roles deferrable initially deferred
  for each row when (old.* is distinct from new.*) execute function sallyport.note_role();
create constraint trigger noted_delete after delete on sallyport.roles deferrable initially deferred
  for each row execute function sallyport.note_role();
create trigger noted_truncate after truncate on sallyport.roles
  for each statement execute function sallyport.note_everything();
create constraint trigger audited after insert or update or delete on sallyport.roles deferrable initially deferred
  for each row execute function sallyport.require_audit();
create trigger audited_truncate after truncate on sallyport.roles
  for each statement execute function sallyport.require_audit();
revoke execute on function sallyport.guard_role(), sallyport.note_role() from public;

-- Replication roles fire them too.
do $$
declare
  t record;
begin
  for t in
    select g.tgname from pg_trigger g where g.tgrelid = 'sallyport.roles'::regclass and not g.tgisinternal
  loop
    execute format('alter table sallyport.roles enable always trigger %I', t.tgname);
  end loop;
end $$;

-- As before; a token that loses a role is narrowed, too.
create or replace function sallyport.lowered(old sallyport.tokens, new sallyport.tokens) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select nullif(jsonb_strip_nulls(jsonb_build_object(
    'disabled', case when new.disabled and not old.disabled then true end,
    'expire_time', case when new.expire_time < coalesce(old.expire_time, 'infinity') then new.expire_time end,
    'narrowed', case when not new.scopes @> old.scopes or not new.roles @> old.roles
      or new.audiences <> '{}' and (old.audiences = '{}' or not new.audiences @> old.audiences)
      or new.allowed_cidrs <> '{}' and (old.allowed_cidrs = '{}' or not new.allowed_cidrs @> old.allowed_cidrs)
      or new.not_before_time > coalesce(old.not_before_time, '-infinity') then true end)), '{}')
$$;

-- Data that only programs of this reader version judge rightly is written from now on: false while an older one may
-- still answer. The lock waits for a registration that is under way, and a later one sees the new bound. A row counts
-- until it is buried: its process may still run.
create function sallyport.readers_from(needed int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if (select s.min_reader >= needed from sallyport.rev_state s) then
    return true;
  end if;
  lock table sallyport.validators in share mode;
  if exists (select from sallyport.validators v where v.reader_version < needed) then
    return false;
  end if;
  update sallyport.rev_state s set min_reader = needed where s.min_reader < needed;
  return true;
end $$;
revoke execute on function sallyport.readers_from(int) from public;

do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant select, insert, update on sallyport.roles to sallyport_writer;
    grant execute on function sallyport.readers_from(int) to sallyport_writer;
  end if;
  if exists (select from pg_roles where rolname = 'sallyport_reader') then
    grant select on sallyport.roles to sallyport_reader;
  end if;
end $$;

-- The view is the one before, with the new columns at its end. Most tokens hold no role: only for the others is the table
-- of roles read.
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
  ) end as parent_scopes
from sallyport.tokens t
  join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id
  left join sallyport.token_usage u on u.token_id = t.id
  cross join (select clock_timestamp() as now offset 0) c;

-- A planner without figures takes this table for a large one, and JIT compiles its statements.
analyze sallyport.roles;
