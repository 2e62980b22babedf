-- Trust rules: a workload exchanges a JWT of a configured issuer for a short token. Validation reads none of this, so no
-- change of it is noted in the log. The end of a rule revokes its tokens, and those revocations are.
create table sallyport.trust_rules (
  id text collate "C" primary key check (id ~ '^trr_[0-9A-Za-z]{22}$'),
  tenant text collate "C" not null references sallyport.tenants (id),
  name text collate "C" not null check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
  issuer text collate "C" not null,
  kind text not null check (kind in ('GITHUB', 'GITLAB', 'KUBERNETES', 'SPIFFE')),
  audience text not null check (audience <> ''),
  match jsonb not null check (jsonb_typeof(match) = 'array' and jsonb_array_length(match) between 1 and 16),
  principal text collate "C" not null,
  profile text collate "C" not null,
  scopes text[] collate "C" not null default '{}' check (cardinality(scopes) <= 100),
  -- Milliseconds.
  max_ttl int not null check (max_ttl between 1 and 3600000),
  max_token_age int not null check (max_token_age between 1 and 86400000),
  single_use bool not null,
  max_mints_per_hour int not null check (max_mints_per_hour > 0),
  disabled bool not null default false,
  state text not null default 'ACTIVE' check (state in ('ACTIVE', 'DELETED')),
  create_time timestamptz not null default date_trunc('milliseconds', clock_timestamp()),
  revision int not null default 1
);
create unique index trust_rules_by_name on sallyport.trust_rules (tenant, name) where state = 'ACTIVE';
create index trust_rules_newest on sallyport.trust_rules (tenant, create_time desc, id desc);

-- The JWTs that were exchanged once, until nobody would accept them any more.
create table sallyport.exchange_replays (
  key bytea primary key,
  expire_time timestamptz not null
);
create index exchange_replays_ended on sallyport.exchange_replays (expire_time);

create function sallyport.rule_key(id text) returns bytea
language sql immutable strict as $$ select 'f'::bytea || convert_to(id, 'UTF8') $$;

-- As for roles: an exchange commits before the change of its rule, or sees it.
create function sallyport.guard_trust_rule() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(sallyport.lock_id(sallyport.rule_key(old.id)));
  if tg_op = 'DELETE' then
    return old;
  end if;
  if (new.id, new.tenant, new.name, new.issuer, new.kind, new.principal, new.profile, new.create_time)
     is distinct from
     (old.id, old.tenant, old.name, old.issuer, old.kind, old.principal, old.profile, old.create_time) then
    raise exception 'what a trust rule is cannot be changed' using errcode = 'check_violation';
  end if;
  if old.state = 'DELETED' and new.state <> 'DELETED' then
    raise exception 'a deleted trust rule stays deleted' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger guard before update or delete on sallyport.trust_rules
  for each row execute function sallyport.guard_trust_rule();
create constraint trigger audited after insert or update or delete on sallyport.trust_rules deferrable initially deferred
  for each row execute function sallyport.require_audit();
create trigger audited_truncate after truncate on sallyport.trust_rules
  for each statement execute function sallyport.require_audit();
revoke execute on function sallyport.guard_trust_rule() from public;

-- Replication roles fire them too.
do $$
declare
  t record;
begin
  for t in
    select g.tgname from pg_trigger g where g.tgrelid = 'sallyport.trust_rules'::regclass and not g.tgisinternal
  loop
    execute format('alter table sallyport.trust_rules enable always trigger %I', t.tgname);
  end loop;
end $$;

do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant select, insert, update on sallyport.trust_rules to sallyport_writer;
    grant select, insert, delete on sallyport.exchange_replays to sallyport_writer;
  end if;
end $$;

-- A planner without figures takes these tables for large ones, and JIT compiles their statements.
analyze sallyport.trust_rules, sallyport.exchange_replays;
