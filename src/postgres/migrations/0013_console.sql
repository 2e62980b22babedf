-- What an instance says of itself, for people: its mode and version. Nothing decides by it.
alter table sallyport.validators
  add column mode text not null default '' check (octet_length(mode) <= 32),
  add column version text not null default '' check (octet_length(version) <= 64);

create function sallyport.validator_describe(me uuid, secret bytea, mode text, version text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update sallyport.validators v set mode = validator_describe.mode, version = validator_describe.version
  where v.id = me and v.secret_hash = sha256(secret);
  return found;
end $$;
revoke all on function sallyport.validator_describe(uuid, bytea, text, text) from public;

-- Where the roles are missing, an administrator makes them and runs the same grants, after those of the files before.
do $$
declare
  role text;
begin
  for role in select rolname from pg_roles where rolname in ('sallyport_writer', 'sallyport_reader') loop
    execute format('grant select (mode, version) on sallyport.validators to %I', role);
    execute format('grant execute on function sallyport.validator_describe(uuid, bytea, text, text) to %I', role);
  end loop;
end $$;
