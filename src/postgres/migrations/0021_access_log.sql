-- Uses of tokens, for the profiles that record them. Any validator adds rows, and nothing waits for them. One partition for
-- each day (UTC), so that retention drops whole days.
--
-- The partitions have their own indexes, and nothing has a constraint that partitions inherit: pg_restore --clean could not
-- drop it.
create table sallyport.access_log (
  seq bigint generated always as identity,
  at timestamptz not null,
  tenant text collate "C" not null,
  principal text collate "C" not null,
  token_id text collate "C" not null,
  hint text not null,
  profile text not null,
  verdict text not null,
  reason text not null,
  scopes text[] not null,
  audience text not null,
  method text not null,
  host text not null,
  path text not null,
  workload text not null,
  address text not null,
  listener text not null,
  uses int not null check (uses > 0)
) partition by range (at);

-- The partitions from yesterday to two weeks ahead. ATTACH does not wait for rows that are being added, as CREATE ...
-- PARTITION OF would. Whatever holds the table's lock, this waits for a moment only: rows queue behind a waiting one.
create function sallyport.access_log_ahead() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  today constant date := (clock_timestamp() at time zone 'UTC')::date;
  day date;
  name text;
begin
  -- Another instance does it.
  if not pg_try_advisory_xact_lock(hashtextextended('sallyport.access_log', 0)) then
    return;
  end if;
  for day in select today + i from generate_series(-1, 14) i loop
    name := 'access_log_' || to_char(day, 'YYYYMMDD');
    continue when to_regclass('sallyport.' || name) is not null;
    execute format('create table sallyport.%I (like sallyport.access_log including constraints)', name);
    execute format('revoke all on sallyport.%I from public', name);
    execute format('create index on sallyport.%I (tenant, at, seq)', name);
    execute format('create index on sallyport.%I (tenant, principal, at, seq)', name);
    execute format('create index on sallyport.%I (token_id, at, seq)', name);
    execute format('alter table sallyport.access_log attach partition sallyport.%I for values from (%L) to (%L)',
      name, to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
  end loop;
end $$;

-- Drops the days that ended longer than this ago; returns how many. Rows of the last day are never dropped.
create function sallyport.access_log_prune(keep interval) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  oldest constant date := ((clock_timestamp() - greatest(keep, interval '1 day')) at time zone 'UTC')::date;
  name text;
  gone int := 0;
begin
  if keep is null or not pg_try_advisory_xact_lock(hashtextextended('sallyport.access_log', 0)) then
    return 0;
  end if;
  for name in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'sallyport.access_log'::regclass and c.relnamespace = 'sallyport'::regnamespace
      and c.relname ~ '^access_log_[0-9]{8}$' and to_date(right(c.relname, 8), 'YYYYMMDD') < oldest
    order by 1
  loop
    execute format('drop table sallyport.%I', name);
    gone := gone + 1;
  end loop;
  return gone;
end $$;

select sallyport.access_log_ahead();

revoke execute on function sallyport.access_log_ahead(), sallyport.access_log_prune(interval) from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant select, insert on sallyport.access_log to sallyport_writer;
    grant execute on function sallyport.access_log_ahead(), sallyport.access_log_prune(interval) to sallyport_writer;
  end if;
  if exists (select from pg_roles where rolname = 'sallyport_reader') then
    grant insert on sallyport.access_log to sallyport_reader;
  end if;
end $$;
