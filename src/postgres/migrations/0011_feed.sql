-- A process may acknowledge for caches outside, which it feeds. Its row says for how many, so that a process that waits for
-- them is not taken for a dead one.
alter table sallyport.validators add column clients int not null default 0;

-- As `validator_ack`, for a process that feeds this many caches.
create function sallyport.validator_hold(me uuid, secret bytea, epoch text, applied bigint, clients int)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if clients not between 0 and 1000000 then
    raise exception 'this is not a number of caches' using errcode = 'invalid_parameter_value';
  end if;
  update sallyport.validators v set clients = validator_hold.clients
  where v.id = me and v.secret_hash = sha256(secret) and v.epoch = validator_hold.epoch and v.reaped_at is null;
  return sallyport.validator_ack(me, secret, epoch, applied);
end $$;

-- As `validator_join`, while caches outside may still hold leases under the old row: it stays, marked as reaped, and others
-- bury it once those leases are over.
create function sallyport.validator_replace(
  old uuid, old_secret bytea, me uuid, hash bytea, epoch text, bound int, version int, kids text[]
) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.validators v set reaped_at = clock_timestamp()
  where v.id = old and v.secret_hash = sha256(old_secret) and v.reaped_at is null;
  return sallyport.validator_join(null, null, me, hash, epoch, bound, version, kids);
end $$;

revoke execute on function
  sallyport.validator_hold(uuid, bytea, text, bigint, int),
  sallyport.validator_replace(uuid, bytea, uuid, bytea, text, int, int, text[])
  from public;

do $$
declare
  role text;
begin
  for role in select rolname from pg_roles where rolname in ('sallyport_writer', 'sallyport_reader') loop
    execute format('grant select (clients) on sallyport.validators to %I', role);
    execute format('grant execute on function
      sallyport.validator_hold(uuid, bytea, text, bigint, int),
      sallyport.validator_replace(uuid, bytea, uuid, bytea, text, int, int, text[]) to %I', role);
  end loop;
end $$;
