-- The audit in months (of UTC), part two. The table of before becomes the first partition, up to the end of the next month:
-- copying its rows would stop every change of authority meanwhile.
set local timezone = 'UTC';
set local datestyle = 'ISO';
lock table sallyport.audit in access exclusive mode;
alter table sallyport.audit rename to audit_first;
alter table sallyport.audit_first alter seq drop identity, drop constraint audit_pkey, replica identity full;
drop index sallyport.audit_by_xid;
alter index sallyport.audit_by_time rename to audit_first_by_time;
alter index sallyport.audit_of_target rename to audit_first_of_target;
alter index sallyport.audit_of_owner rename to audit_first_of_owner;
alter index sallyport.audit_of_actor rename to audit_first_of_actor;
alter index sallyport.audit_of_action rename to audit_first_of_action;
-- The one of the whole table fires on each partition.
drop trigger kept on sallyport.audit_first;

create table sallyport.audit (
  like sallyport.audit_first including defaults including constraints
) partition by range (at);
-- An index, not a constraint: pg_restore --clean would drop the constraint of each partition, and may not.
create unique index audit_key on sallyport.audit (seq, at);
create index audit_by_xid on sallyport.audit (xid, seq);
create index audit_by_time on sallyport.audit (tenant, at desc, seq desc);
create index audit_of_target on sallyport.audit (tenant, target, at desc, seq desc);
create index audit_of_owner on sallyport.audit (tenant, owner, at desc, seq desc) where owner <> '';
create index audit_of_actor on sallyport.audit (tenant, actor, at desc, seq desc);
create index audit_of_action on sallyport.audit (tenant, action, at desc, seq desc);

-- Rows are counted on from where they were.
do $$
begin
  execute format('alter table sallyport.audit alter seq add generated always as identity (start with %s)',
    (select coalesce(max(seq), 0) + 1 from sallyport.audit_first));
end $$;

create trigger kept before update or delete on sallyport.audit
  for each row execute function sallyport.keep_audit();
create trigger kept_truncate before truncate on sallyport.audit
  for each statement execute function sallyport.keep_audit();
alter table sallyport.audit enable always trigger kept;
alter table sallyport.audit enable always trigger kept_truncate;

do $$
begin
  execute format('alter table sallyport.audit attach partition sallyport.audit_first for values from (minvalue) to (%L)',
    date_trunc('month', greatest(clock_timestamp(), (select max(at) from sallyport.audit_first))) + interval '2 months');
end $$;

-- The rights on it, whoever has them. Rows are read and written by the name of the whole table alone.
do $$
declare
  had record;
begin
  for had in
    select a.privilege_type as privilege, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
    from pg_class c, aclexplode(c.relacl) a where c.oid = 'sallyport.audit_first'::regclass and a.grantee <> c.relowner
  loop
    execute format('grant %s on sallyport.audit to %s', had.privilege, had.grantee);
    execute format('revoke %s on sallyport.audit_first from %s', had.privilege, had.grantee);
  end loop;
end $$;

-- A table that can become a partition. A TRUNCATE of one partition fires its own triggers only. FULL: the canary's rows are
-- deleted, and a publication of all tables refuses a deletion that it cannot describe.
create function sallyport.audit_table(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('create table sallyport.%I (like sallyport.audit including defaults including constraints including indexes)', name);
  execute format('create trigger kept_truncate before truncate on sallyport.%I for each statement execute function sallyport.keep_audit()', name);
  execute format('alter table sallyport.%I enable always trigger kept_truncate, replica identity full', name);
end $$;
revoke execute on function sallyport.audit_table(text) from public;

-- For rows that no month takes, of a clock far ahead or behind: without a partition, every change would be refused.
select sallyport.audit_table('audit_other');
alter table sallyport.audit attach partition sallyport.audit_other default;

-- The partitions with bounds. `since` of the first one is null. The 0: without it, this waits for locks on partitions.
create function sallyport.audit_parts() returns table (name text, since timestamptz, until timestamptz)
language sql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' as $$
  select c.relname::text, substring(b.bound from 'FROM \(''([^'']+)''\)')::timestamptz,
    substring(b.bound from 'TO \(''([^'']+)''\)')::timestamptz
  from pg_inherits i join pg_class c on c.oid = i.inhrelid cross join lateral pg_get_expr(c.relpartbound, 0) b (bound)
  where i.inhparent = 'sallyport.audit'::regclass and b.bound <> 'DEFAULT'
$$;
revoke execute on function sallyport.audit_parts() from public;

-- Makes the partitions of this month and the next twelve. Returns for how many whole months after this one there are
-- partitions. A table that is made first and attached then waits for no writer of another partition. Where somebody uses
-- the rows of no month, it waits a moment at most, because others wait behind it: the next call makes the rest.
create function sallyport.audit_months() returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '100ms' as $$
declare
  this constant timestamptz := date_trunc('month', clock_timestamp());
  month timestamptz;
  name text;
begin
  if pg_try_advisory_xact_lock(sallyport.lock_id('audit months')) then
    for month in
      select m from generate_series(this, this + interval '12 months', interval '1 month') m
      where not exists (
        select from sallyport.audit_parts() p where coalesce(p.since, '-infinity') <= m and m < p.until)
    loop
      name := 'audit_' || to_char(month, 'YYYY_MM');
      begin
        perform sallyport.audit_table(name);
        -- What a clock far ahead wrote. However much it is, only attaching makes changes wait.
        if exists (select from sallyport.audit_other o where o.at >= month and o.at < month + interval '1 month') then
          alter table sallyport.audit_other disable trigger kept;
          execute format('with moved as (delete from sallyport.audit_other where at >= %L and at < %L returning *)
            insert into sallyport.%I table moved', month, month + interval '1 month', name);
          alter table sallyport.audit_other enable always trigger kept;
        end if;
        execute format('alter table sallyport.audit attach partition sallyport.%I for values from (%L) to (%L)',
          name, month, month + interval '1 month');
      exception when lock_not_available or check_violation then
        -- Somebody uses the rows of no month, or has just added some of this month.
        exit;
      end;
    end loop;
  end if;
  return (
    select count(*) from generate_series(this + interval '1 month', this + interval '12 months', interval '1 month') m
    where not exists (
      select from generate_series(this + interval '1 month', m, interval '1 month') e
      where not exists (
        select from sallyport.audit_parts() p where coalesce(p.since, '-infinity') <= e and e < p.until)));
end $$;
revoke execute on function sallyport.audit_months() from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant execute on function sallyport.audit_months() to sallyport_writer;
  end if;
end $$;

select sallyport.audit_months();

-- For the owner alone: drops the partitions whose rows are all older than `keep`, and says so in the audit. Returns their
-- names. It waits a moment for writers, and they for it.
create function sallyport.audit_keep(keep interval) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '500ms' as $$
declare
  before constant timestamptz := clock_timestamp() - keep;
  gone text[] := '{}';
  part text;
begin
  if keep is null or before > clock_timestamp() - interval '1 month' then
    raise exception 'at least one month of the audit is kept' using errcode = 'invalid_parameter_value';
  end if;
  for part in select p.name from sallyport.audit_parts() p where p.until <= before order by p.until loop
    execute format('drop table sallyport.%I', part);
    gone := array_append(gone, part);
  end loop;
  if exists (select from sallyport.audit_other o where o.at < before) then
    alter table sallyport.audit_other disable trigger kept;
    delete from sallyport.audit_other o where o.at < before;
    alter table sallyport.audit_other enable always trigger kept;
    gone := array_append(gone, 'audit_other');
  end if;
  if gone <> '{}' then
    insert into sallyport.audit (tenant, actor, action, target, metadata)
    values ('default', 'sql:' || session_user, 'audit.drop', 'audit:' || before,
      jsonb_build_object('partitions', array_to_string(gone, ' ')));
  end if;
  return gone;
end $$;
revoke execute on function sallyport.audit_keep(interval) from public;

-- As before, with a bound on the other side: without it each later month would be looked into.
create or replace function sallyport.require_audit() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- The lower bound keeps rows that were restored from another cluster, with its transaction ids, from counting.
  if not exists (
    select from sallyport.audit
    where xid = pg_current_xact_id() and outcome = 'OK'
      and at >= date_trunc('milliseconds', transaction_timestamp()) and at < statement_timestamp() + interval '1 day'
  ) then
    raise exception 'a change of % needs an audit row in the same transaction', tg_table_name
      using errcode = 'integrity_constraint_violation',
            hint = 'insert into sallyport.audit (tenant, actor, action, target) first, or use sallyport.revoke(id, reason)';
  end if;
  return null;
end $$;

-- As before, but that rows of the audit are deleted in the months that they are in.
-- At most `batch` tokens and as many audit rows; returns how many rows went. Oldest first, by the indexes of the lists.
create or replace function sallyport.canary_prune(batch int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  canary constant text := 'user:sallyport-canary';
  day constant timestamptz := clock_timestamp() - interval '1 day';
  most constant int := least(batch, 1000);
  ids text[];
  gone bigint := 0;
  told bigint;
  rows bigint[];
  oldest timestamptz;
  newest timestamptz;
begin
  ids := array(
    select t.id from sallyport.tokens t
    where t.tenant = 'default' and t.principal = canary and t.create_time < day and t.created_by = 'canary'
      and (t.revoke_time < day or t.expire_time < day)
      and not exists (select from sallyport.tokens c where c.parent_id = t.id)
    order by t.create_time, t.id limit most for update skip locked);
  if ids <> '{}' then
    delete from sallyport.token_usage where token_id = any(ids);
    delete from sallyport.tokens where id = any(ids);
    get diagnostics gone = row_count;
  end if;
  -- Where no canary flies any more, its principal goes, too. One that an administrator made, changed or cut stays as it is.
  if exists (
    select from sallyport.principals p where p.tenant = 'default' and p.name = canary and p.create_time < day
      and p.revision = 1 and p.cut_time is null and p.state = 'ACTIVE'
      and p.display_name = '' and p.email = '' and p.owner = '' and p.annotations = '{}'
      and not exists (select from sallyport.tokens t where t.tenant = 'default' and t.principal = canary)
  ) then
    -- A mint that is under way comes before, and is seen by the next statement; or after, and makes the row again.
    perform pg_advisory_xact_lock(sallyport.lock_id(sallyport.principal_key('default', canary)));
    delete from sallyport.principals p where p.tenant = 'default' and p.name = canary and p.create_time < day
      and p.revision = 1 and p.cut_time is null and p.state = 'ACTIVE'
      and p.display_name = '' and p.email = '' and p.owner = '' and p.annotations = '{}'
      and not exists (select from sallyport.tokens t where t.tenant = 'default' and t.principal = canary);
    get diagnostics told = row_count;
    gone := gone + told;
  end if;
  if gone > 0 then
    insert into sallyport.audit (tenant, actor, action, target, owner, metadata, request_id)
    values ('default', 'sallyport', 'canary.prune', 'principal:' || canary, canary,
      jsonb_build_object('tokens', coalesce(array_length(ids, 1), 0)::text), 'canary');
  end if;
  select array_agg(c.seq), min(c.at), max(c.at) into rows, oldest, newest from (
    select a.seq, a.at from sallyport.audit a
    where a.tenant = 'default' and a.owner = canary and a.at < day and a.actor = 'sallyport' and a.request_id = 'canary'
    order by a.at, a.seq limit most) c;
  delete from sallyport.audit where seq = any(rows) and at >= oldest and at <= newest;
  get diagnostics told = row_count;
  return gone + told;
end $$;
