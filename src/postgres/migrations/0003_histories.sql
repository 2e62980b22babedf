-- Positions of two histories are never comparable, so no restore may bring back the epoch that a dump was made in. What
-- a restore changes by itself (server, database, file nodes) the epoch shows; the rest is here: whatever puts head or
-- state in another place than the program's next step draws a new incarnation.

-- The transaction that wrote the row last. A row that was put there while triggers were off does not carry its own, and
-- the epoch shows that.
alter table sallyport.rev_head add column sealed xid;
alter table sallyport.rev_state add column sealed xid;

create function sallyport.seal_state() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' or old.sealed is distinct from old.xmin or new.floor_n < old.floor_n
     or new.incarnation is distinct from old.incarnation then
    new.incarnation := gen_random_uuid();
    -- Seen by others, it must not be lost with a backend: the incarnation before it would come back.
    if current_setting('synchronous_commit') = 'off' then
      perform set_config('synchronous_commit', 'local', true);
    end if;
  end if;
  new.sealed := pg_current_xact_id()::xid;
  return new;
end $$;
create trigger sealed before insert or update on sallyport.rev_state
  for each row execute function sallyport.seal_state();

create function sallyport.seal_head() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  new.sealed := pg_current_xact_id()::xid;
  return new;
end $$;
create trigger sealed before insert or update on sallyport.rev_head
  for each row execute function sallyport.seal_head();

create function sallyport.another_history() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.rev_state set incarnation = gen_random_uuid();
  return null;
end $$;
create trigger another_insert after insert on sallyport.rev_head
  for each row execute function sallyport.another_history();
create trigger another_update after update on sallyport.rev_head
  for each row when (new.n < old.n or old.sealed is distinct from old.xmin)
  execute function sallyport.another_history();
create trigger another_delete after delete on sallyport.rev_head
  for each row execute function sallyport.another_history();
create trigger another_truncate after truncate on sallyport.rev_head
  for each statement execute function sallyport.another_history();

do $$
declare
  t record;
begin
  for t in
    select c.relname, g.tgname
    from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_namespace s on s.oid = c.relnamespace
    where s.nspname = 'sallyport' and c.relname in ('rev_head', 'rev_state') and not g.tgisinternal
  loop
    execute format('alter table sallyport.%I enable always trigger %I', t.relname, t.tgname);
  end loop;
end $$;

-- For a process that saw history go backwards, or rows that were put there unseen: it begins again under a new
-- incarnation only. Of many that saw the same one, the first draws. Locks in the order of a change.
create function sallyport.draw_incarnation(seen uuid) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from sallyport.rev_head for update;
  update sallyport.rev_state set incarnation = gen_random_uuid() where incarnation = seen;
  if not found then
    return false;
  end if;
  update sallyport.rev_head set n = n;
  return true;
end $$;
revoke execute on function sallyport.draw_incarnation(uuid) from public;
do $$
declare
  role text;
begin
  foreach role in array array['sallyport_writer', 'sallyport_reader'] loop
    if exists (select from pg_roles where rolname = role) then
      execute format('grant execute on function sallyport.draw_incarnation(uuid) to %I', role);
    end if;
  end loop;
end $$;

-- Seals both, and begins the first epoch of the new kind.
update sallyport.rev_head set n = n;
