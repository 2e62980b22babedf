-- Sessions of the console. `id` is a MAC of the browser's cookie, and the issuer's tokens are sealed by a key that is not in
-- the database: nobody can use a row alone. Nothing in the revocation log depends on a row, and each has an end.
create table sallyport.console_sessions (
  id bytea primary key check (octet_length(id) = 32),
  issuer text not null check (octet_length(issuer) <= 64),
  sealed bytea not null check (octet_length(sealed) <= 65536),
  create_time timestamptz not null default clock_timestamp(),
  use_time timestamptz not null default clock_timestamp(),
  expire_time timestamptz not null,
  -- One instance renews the tokens at a time: an issuer may end a session whose refresh token comes twice.
  renewing_until timestamptz not null default '-infinity'
);
create index console_sessions_by_end on sallyport.console_sessions (expire_time);

do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant select, insert, update, delete on sallyport.console_sessions to sallyport_writer;
  end if;
end $$;
