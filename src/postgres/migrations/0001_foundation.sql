-- The tables of tokens and those they speak for, the commit-ordered log of every change of authority, the registry of
-- caches, and the audit. Names of positions, keys and settings are those of docs/revocation.md.

-- -------------------------------------------------------------------------------------------------- the log
create table sallyport.rev_head (
  one bool primary key default true check (one),
  n bigint not null default 0
) with (fillfactor = 10);

create table sallyport.rev_state (
  one bool primary key default true check (one),
  floor_n bigint not null default 0,
  incarnation uuid not null default gen_random_uuid(),
  max_bound_ms int not null default 1500,
  min_reader int not null default 1,
  settled text,
  guard text not null default 'ok' check (guard in ('ok', 'regressed'))
);

create table sallyport.rev_log (
  n bigint not null,
  key bytea not null,
  at timestamptz not null default clock_timestamp(),
  primary key (n, key)
);
create index rev_log_at on sallyport.rev_log (at);

create table sallyport.validators (
  id uuid primary key,
  epoch text not null,
  applied_n bigint not null default -1,
  bound_ms int not null,
  reader_version int not null,
  kids text[] not null,
  seen timestamptz not null default clock_timestamp(),
  reaped_at timestamptz
) with (fillfactor = 20);

insert into sallyport.rev_head default values;
insert into sallyport.rev_state default values;

create function sallyport.rev_now() returns bigint
language sql stable as 'select n from sallyport.rev_head';

-- Takes this transaction's position (once: the head's row lock is held to the end of the commit, so that a snapshot
-- that sees n sees every commit up to n) and notes a key under it. Called last, by deferred triggers.
create function sallyport.rev_note(key bytea) returns bigint
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
  if noted < 10000 then
    insert into sallyport.rev_log (n, key)
    values (pos, case when noted = 9999 then '*'::bytea else key end)
    on conflict do nothing;
    perform set_config('sallyport.rev', xid || ':' || pos || ':' || (noted + 1), true);
  end if;
  return pos;
end $$;
revoke execute on function sallyport.rev_note(bytea) from public;

create function sallyport.note_everything() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform sallyport.rev_note('*'::bytea);
  return null;
end $$;

create function sallyport.principal_key(tenant text, name text) returns bytea
language sql immutable strict as
  $$ select 'p'::bytea || convert_to(tenant, 'UTF8') || '\x00'::bytea || convert_to(name, 'UTF8') $$;

create function sallyport.tenant_key(tenant text) returns bytea
language sql immutable strict as $$ select 'o'::bytea || convert_to(tenant, 'UTF8') $$;

-- Shared locks of principals and tenants, in the order given: minting commits before their change, or sees it.
create function sallyport.lock_shared(keys bytea[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  key bytea;
begin
  foreach key in array keys loop
    perform pg_advisory_xact_lock_shared(hashtextextended(encode(key, 'hex'), 0));
  end loop;
end $$;

create function sallyport.lock_id(key bytea) returns bigint
language sql immutable strict as $$ select hashtextextended(encode(key, 'hex'), 0) $$;

-- -------------------------------------------------------------------------------------------------- what validation reads
create table sallyport.tenants (
  id text collate "C" primary key check (id ~ '^[a-z][a-z0-9-]{0,62}$'),
  display_name text not null default '',
  state text not null default 'ACTIVE' check (state in ('ACTIVE', 'SUSPENDED')),
  annotations jsonb not null default '{}',
  create_time timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  revision int not null default 1,
  cut_time timestamptz,
  cut_n bigint not null default 0
);

create table sallyport.principals (
  tenant text collate "C" not null references sallyport.tenants (id),
  name text collate "C" not null check (name ~ '^(user|bot|service|org):[A-Za-z0-9._@/+-]{1,128}$'),
  display_name text not null default '',
  email text not null default '',
  owner text collate "C" not null default '',
  state text not null default 'ACTIVE' check (state in ('ACTIVE', 'DISABLED', 'DELETED')),
  annotations jsonb not null default '{}',
  create_time timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  revision int not null default 1,
  cut_time timestamptz,
  cut_n bigint not null default 0,
  primary key (tenant, name)
);
create index principals_newest on sallyport.principals (tenant, create_time desc, name desc);

create table sallyport.tokens (
  id text collate "C" primary key check (id ~ '^tok_[0-9A-Za-z]{22}$'),
  digest bytea not null unique check (octet_length(digest) = 32),
  kid text collate "C" not null,
  hint text collate "C" not null,
  tenant text collate "C" not null,
  profile text collate "C" not null,
  principal text collate "C" not null,
  display_name text not null default '',
  description text not null default '',
  scopes text[] collate "C" not null default '{}',
  audiences text[] collate "C" not null default '{}',
  allowed_cidrs text[] collate "C" not null default '{}',
  annotations jsonb not null default '{}',
  disabled bool not null default false,
  create_time timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  created_by text collate "C" not null,
  not_before_time timestamptz,
  expire_time timestamptz,
  revoke_time timestamptz,
  revoked_by text not null default '',
  revoke_reason text not null default '',
  parent_id text collate "C" references sallyport.tokens (id),
  family text collate "C" not null,
  rotated_from text collate "C" not null default '',
  rotated_to text collate "C" not null default '',
  issued_n bigint not null default sallyport.rev_now(),
  revision int not null default 1,
  foreign key (tenant, principal) references sallyport.principals (tenant, name)
);
create index tokens_newest on sallyport.tokens (tenant, create_time desc, id desc);
create index tokens_of_principal on sallyport.tokens (tenant, principal, create_time desc, id desc);
create index tokens_by_hint on sallyport.tokens (hint);
create index tokens_by_maker on sallyport.tokens (tenant, created_by);
create index tokens_by_parent on sallyport.tokens (parent_id) where parent_id is not null;
create index tokens_by_family on sallyport.tokens (family);

-- Not read by validation, and written by it: never in the way of an authority change.
create table sallyport.token_usage (
  token_id text collate "C" primary key,
  last_use_time timestamptz not null,
  last_use_address text not null default ''
);

-- A token as people see it: with its last use and its effective state at the time of the read.
create view sallyport.token_view with (security_invoker = true) as
select t.*, u.last_use_time, u.last_use_address,
  case
    when t.revoke_time is not null or p.state = 'DELETED' or t.issued_n < p.cut_n or t.issued_n < o.cut_n
      or q.revoke_time is not null or q.disabled or q.expire_time <= c.now or q.issued_n < p.cut_n
      or q.issued_n < o.cut_n or q.not_before_time > c.now then 'REVOKED'
    when t.disabled or p.state <> 'ACTIVE' or o.state <> 'ACTIVE' then 'DISABLED'
    when t.expire_time <= c.now then 'EXPIRED'
    when t.not_before_time > c.now then 'NOT_YET_VALID'
    else 'ACTIVE'
  end as state
from sallyport.tokens t
  join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id
  left join sallyport.token_usage u on u.token_id = t.id
  cross join (select clock_timestamp() as now offset 0) c;

-- -------------------------------------------------------------------------------------------------- the audit
create table sallyport.audit (
  seq bigint generated always as identity primary key,
  xid xid8 not null default pg_current_xact_id(),
  at timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  tenant text collate "C" not null,
  actor text collate "C" not null,
  actor_address text not null default '',
  action text collate "C" not null,
  target text collate "C" not null,
  owner text collate "C" not null default '',
  outcome text not null default 'OK' check (outcome in ('OK', 'DENIED')),
  metadata jsonb not null default '{}',
  request_id text not null default ''
);
create index audit_by_xid on sallyport.audit (xid);
create index audit_newest on sallyport.audit (tenant, seq desc);
create index audit_by_target on sallyport.audit (target, seq desc);
create index audit_by_owner on sallyport.audit (tenant, owner, seq desc) where owner <> '';

-- -------------------------------------------------------------------------------------------------- what minting keeps
-- Repeats within ten minutes; the salt is erased with the row.
create table sallyport.requests (
  caller text collate "C" not null,
  request_id uuid not null,
  method text not null,
  body bytea not null,
  salt bytea not null,
  token_id text collate "C" not null,
  at timestamptz not null default clock_timestamp(),
  primary key (caller, request_id)
);
create index requests_at on sallyport.requests (at);

create table sallyport.mint_counts (
  key text collate "C" not null,
  window_start timestamptz not null,
  count int not null,
  primary key (key, window_start)
);

-- A pepper that is wrong is noticed at start.
create table sallyport.key_checks (
  kid text collate "C" primary key,
  check_value bytea not null,
  at timestamptz not null default clock_timestamp()
);

-- A retired pepper: tokens made with it must end everywhere.
create trigger noted_delete after delete on sallyport.key_checks
  for each statement execute function sallyport.note_everything();

-- The first administrator is made once; the row outlives its token.
create table sallyport.first_admin (
  one bool primary key default true check (one),
  made_at timestamptz
);
insert into sallyport.first_admin default values;

-- -------------------------------------------------------------------------------------------------- guards before the row
create function sallyport.guard_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if old.revoke_time is not null and new.revoke_time is distinct from old.revoke_time then
    raise exception 'a revoked token stays revoked' using errcode = 'check_violation';
  end if;
  if (new.id, new.digest, new.kid, new.hint, new.tenant, new.principal, new.profile, new.create_time, new.created_by,
      new.parent_id, new.family, new.rotated_from, new.issued_n)
     is distinct from
     (old.id, old.digest, old.kid, old.hint, old.tenant, old.principal, old.profile, old.create_time, old.created_by,
      old.parent_id, old.family, old.rotated_from, old.issued_n) then
    raise exception 'what a token is can not be changed' using errcode = 'check_violation';
  end if;
  if old.rotated_to <> '' and (new.rotated_to <> old.rotated_to
     or new.expire_time is null or new.expire_time > old.expire_time) then
    raise exception 'a rotated token keeps its end' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger guard before update on sallyport.tokens for each row execute function sallyport.guard_token();

-- The exclusive form of the lock that minting takes in shared form: a mint commits before the change, or is refused.
create function sallyport.guard_principal() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(sallyport.lock_id(sallyport.principal_key(old.tenant, old.name)));
  if tg_op = 'DELETE' then
    return old;
  end if;
  if (new.tenant, new.name) is distinct from (old.tenant, old.name) or new.cut_n < old.cut_n
     or (old.cut_time is not null and new.cut_time is null) then
    raise exception 'a cut stays, and a principal keeps its name' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger guard before update or delete on sallyport.principals
  for each row execute function sallyport.guard_principal();

create function sallyport.guard_tenant() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(sallyport.lock_id(sallyport.tenant_key(old.id)));
  if tg_op = 'DELETE' then
    return old;
  end if;
  if new.id <> old.id or new.cut_n < old.cut_n or (old.cut_time is not null and new.cut_time is null) then
    raise exception 'a cut stays, and a tenant keeps its id' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger guard before update or delete on sallyport.tenants
  for each row execute function sallyport.guard_tenant();

-- -------------------------------------------------------------------------------------------------- every change takes a position
create function sallyport.note_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform sallyport.rev_note('t'::bytea || old.digest);
  if tg_op = 'UPDATE' then
    perform sallyport.rev_note('t'::bytea || new.digest);
  end if;
  return null;
end $$;

create function sallyport.note_principal() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
  touched int;
begin
  if tg_op <> 'INSERT' then
    pos := sallyport.rev_note(sallyport.principal_key(old.tenant, old.name));
  end if;
  if tg_op <> 'DELETE' then
    pos := sallyport.rev_note(sallyport.principal_key(new.tenant, new.name));
    if new.cut_time is not null and (tg_op = 'INSERT' or new.cut_time is distinct from old.cut_time) then
      update sallyport.principals set cut_n = pos where tenant = new.tenant and name = new.name;
      get diagnostics touched = row_count;
      if touched <> 1 then
        raise exception 'a cut must set exactly one row, not %', touched;
      end if;
    end if;
  end if;
  return null;
end $$;

create function sallyport.note_tenant() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  pos bigint;
  touched int;
begin
  if tg_op <> 'INSERT' then
    pos := sallyport.rev_note(sallyport.tenant_key(old.id));
  end if;
  if tg_op <> 'DELETE' then
    pos := sallyport.rev_note(sallyport.tenant_key(new.id));
    if new.cut_time is not null and (tg_op = 'INSERT' or new.cut_time is distinct from old.cut_time) then
      update sallyport.tenants set cut_n = pos where id = new.id;
      get diagnostics touched = row_count;
      if touched <> 1 then
        raise exception 'a cut must set exactly one row, not %', touched;
      end if;
    end if;
  end if;
  return null;
end $$;

create constraint trigger noted_update after update on sallyport.tokens deferrable initially deferred
  for each row when (old.* is distinct from new.*) execute function sallyport.note_token();
create constraint trigger noted_delete after delete on sallyport.tokens deferrable initially deferred
  for each row execute function sallyport.note_token();
create trigger noted_truncate after truncate on sallyport.tokens
  for each statement execute function sallyport.note_everything();

create constraint trigger noted_insert after insert on sallyport.principals deferrable initially deferred
  for each row when (new.state <> 'ACTIVE' or new.cut_time is not null) execute function sallyport.note_principal();
create constraint trigger noted_update after update on sallyport.principals deferrable initially deferred
  for each row when (old.* is distinct from new.*) execute function sallyport.note_principal();
create constraint trigger noted_delete after delete on sallyport.principals deferrable initially deferred
  for each row execute function sallyport.note_principal();
create trigger noted_truncate after truncate on sallyport.principals
  for each statement execute function sallyport.note_everything();

create constraint trigger noted_insert after insert on sallyport.tenants deferrable initially deferred
  for each row when (new.state <> 'ACTIVE' or new.cut_time is not null) execute function sallyport.note_tenant();
create constraint trigger noted_update after update on sallyport.tenants deferrable initially deferred
  for each row when (old.* is distinct from new.*) execute function sallyport.note_tenant();
create constraint trigger noted_delete after delete on sallyport.tenants deferrable initially deferred
  for each row execute function sallyport.note_tenant();
create trigger noted_truncate after truncate on sallyport.tenants
  for each statement execute function sallyport.note_everything();

-- -------------------------------------------------------------------------------------------------- no change without an audit row
create function sallyport.require_audit() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- The time bound keeps rows that were restored from another cluster, with its transaction ids, from counting.
  if not exists (
    select from sallyport.audit
    where xid = pg_current_xact_id() and outcome = 'OK'
      and at >= date_trunc('milliseconds', transaction_timestamp())
  ) then
    raise exception 'a change of % needs an audit row in the same transaction', tg_table_name
      using errcode = 'integrity_constraint_violation',
            hint = 'insert into sallyport.audit (tenant, actor, action, target) first, or use sallyport.revoke(id, reason)';
  end if;
  return null;
end $$;

create constraint trigger audited after insert or update or delete on sallyport.tokens deferrable initially deferred
  for each row execute function sallyport.require_audit();
create constraint trigger audited after insert or update or delete on sallyport.principals deferrable initially deferred
  for each row execute function sallyport.require_audit();
create constraint trigger audited after insert or update or delete on sallyport.tenants deferrable initially deferred
  for each row execute function sallyport.require_audit();
create trigger audited_truncate after truncate on sallyport.tokens
  for each statement execute function sallyport.require_audit();
create trigger audited_truncate after truncate on sallyport.principals
  for each statement execute function sallyport.require_audit();
create trigger audited_truncate after truncate on sallyport.tenants
  for each statement execute function sallyport.require_audit();

create function sallyport.keep_audit() returns trigger language plpgsql as $$
begin
  raise exception 'audit rows are kept as they are' using errcode = 'insufficient_privilege';
end $$;
create trigger kept before update or delete on sallyport.audit
  for each row execute function sallyport.keep_audit();
create trigger kept_truncate before truncate on sallyport.audit
  for each statement execute function sallyport.keep_audit();

-- Replication roles fire them too.
do $$
declare
  t record;
begin
  for t in
    select c.relname, g.tgname
    from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_namespace s on s.oid = c.relnamespace
    where s.nspname = 'sallyport' and not g.tgisinternal
  loop
    execute format('alter table sallyport.%I enable always trigger %I', t.relname, t.tgname);
  end loop;
end $$;

-- For work by hand: revokes with its audit row. In force everywhere 1.85 s after the commit at the latest.
create function sallyport.revoke(token text, reason text default '') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  found_tenant text;
  found_principal text;
begin
  update sallyport.tokens
  set revoke_time = coalesce(revoke_time, date_trunc('milliseconds', clock_timestamp())),
      revoked_by = case when revoke_time is null then 'sql:' || session_user else revoked_by end,
      revoke_reason = case when revoke_time is null then left(revoke.reason, 200) else revoke_reason end
  where id = revoke.token
  returning tenant, principal into found_tenant, found_principal;
  if not found then
    raise exception 'no token has the id %', revoke.token using errcode = 'no_data_found';
  end if;
  insert into sallyport.audit (tenant, actor, action, target, owner)
  values (found_tenant, 'sql:' || session_user, 'token.revoke', 'token:' || revoke.token, found_principal);
end $$;

-- -------------------------------------------------------------------------------------------------- who may do what
-- Group roles, for logins to be members of. Where this role may not make roles, an administrator does, and runs the
-- same grants.
do $$
declare
  role text;
begin
  foreach role in array array['sallyport_writer', 'sallyport_reader'] loop
    if not exists (select from pg_roles where rolname = role) then
      begin
        execute format('create role %I nologin', role);
      exception
        when insufficient_privilege then raise notice 'role % is not there and can not be made', role;
        when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant usage on schema sallyport to sallyport_writer;
    grant select on all tables in schema sallyport to sallyport_writer;
    grant insert, update on sallyport.tokens, sallyport.principals, sallyport.tenants, sallyport.token_usage,
      sallyport.requests, sallyport.mint_counts, sallyport.rev_state, sallyport.key_checks, sallyport.first_admin
      to sallyport_writer;
    grant insert, update, delete on sallyport.validators to sallyport_writer;
    grant delete on sallyport.rev_log, sallyport.requests, sallyport.mint_counts to sallyport_writer;
    grant insert on sallyport.audit to sallyport_writer;
  end if;
  if exists (select from pg_roles where rolname = 'sallyport_reader') then
    grant usage on schema sallyport to sallyport_reader;
    grant select on all tables in schema sallyport to sallyport_reader;
    revoke select on sallyport.requests, sallyport.audit, sallyport.mint_counts from sallyport_reader;
    grant insert, update on sallyport.token_usage to sallyport_reader;
    grant insert, update, delete on sallyport.validators to sallyport_reader;
  end if;
end $$;

insert into sallyport.audit (tenant, actor, action, target) values ('default', 'migration', 'tenant.create', 'tenant:default');
insert into sallyport.tenants (id, display_name) values ('default', 'Default');
