-- What the canary wrote does not stay for ever. A writer may delete neither tokens nor audit rows: this function deletes the
-- canary's own, once they have been over for a day.
create or replace function sallyport.keep_audit() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'DELETE' and (old.tenant, old.owner, old.actor, old.request_id)
     = ('default', 'user:sallyport-canary', 'sallyport', 'canary') and old.at < clock_timestamp() - interval '1 day' then
    return old;
  end if;
  raise exception 'audit rows are kept as they are' using errcode = 'insufficient_privilege';
end $$;

-- At most `batch` tokens and as many audit rows; returns how many rows went. Oldest first, by the indexes of the lists.
create function sallyport.canary_prune(batch int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  canary constant text := 'user:sallyport-canary';
  day constant timestamptz := clock_timestamp() - interval '1 day';
  most constant int := least(batch, 1000);
  ids text[];
  gone bigint := 0;
  told bigint;
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
  delete from sallyport.audit where seq = any(array(
    select a.seq from sallyport.audit a
    where a.tenant = 'default' and a.owner = canary and a.at < day and a.actor = 'sallyport' and a.request_id = 'canary'
    order by a.at, a.seq limit most));
  get diagnostics told = row_count;
  return gone + told;
end $$;
revoke execute on function sallyport.canary_prune(int) from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant execute on function sallyport.canary_prune(int) to sallyport_writer;
  end if;
end $$;

-- Acknowledging says that a process lives; nothing ever called this one.
drop function sallyport.validator_seen(uuid, bytea);

-- A row that a subtransaction writes (a savepoint, a block with EXCEPTION, psql with ON_ERROR_ROLLBACK) bears the number of
-- that one, and its seal the number of the transaction: it looked like a row that was put there unseen. Such a row is sealed
-- once more, with the number that it bears. Only a trigger does that, and only to what its own transaction has just sealed.
create function sallyport.seal_again() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_table_name = 'rev_head' then
    update sallyport.rev_head set sealed = xmin;
  else
    update sallyport.rev_state set sealed = xmin;
  end if;
  return null;
end $$;
revoke execute on function sallyport.seal_again() from public;

create or replace function sallyport.seal_state() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  own constant xid := pg_current_xact_id()::xid;
begin
  if tg_op = 'UPDATE' and pg_trigger_depth() > 1 and old.sealed = own and old.xmin <> own and new.sealed = old.xmin then
    new := old;
    new.sealed := old.xmin;
    return new;
  end if;
  if tg_op = 'INSERT' or old.sealed is distinct from old.xmin or new.floor_n < old.floor_n
     or new.incarnation is distinct from old.incarnation then
    new.incarnation := gen_random_uuid();
    -- Seen by others, it must not be lost with a backend: the incarnation before it would come back.
    if current_setting('synchronous_commit') = 'off' then
      perform set_config('synchronous_commit', 'local', true);
    end if;
  end if;
  new.sealed := own;
  return new;
end $$;

create or replace function sallyport.seal_head() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  own constant xid := pg_current_xact_id()::xid;
begin
  if tg_op = 'UPDATE' and pg_trigger_depth() > 1 and old.sealed = own and old.xmin <> own and new.sealed = old.xmin then
    new := old;
    new.sealed := old.xmin;
    return new;
  end if;
  new.sealed := own;
  return new;
end $$;

-- As before, but for the update that only seals again: of a row that this transaction sealed, by the number it bears.
create or replace trigger another_update after update on sallyport.rev_head
  for each row when (new.n < old.n or old.sealed is distinct from old.xmin and not (
    old.sealed = pg_current_xact_id()::xid and old.xmin <> pg_current_xact_id()::xid and new.sealed = old.xmin))
  execute function sallyport.another_history();
create trigger sealed_again after update on sallyport.rev_head
  for each row when (new.sealed is distinct from new.xmin) execute function sallyport.seal_again();
create trigger sealed_again after update on sallyport.rev_state
  for each row when (new.sealed is distinct from new.xmin) execute function sallyport.seal_again();
alter table sallyport.rev_head enable always trigger another_update;
alter table sallyport.rev_head enable always trigger sealed_again;
alter table sallyport.rev_state enable always trigger sealed_again;
