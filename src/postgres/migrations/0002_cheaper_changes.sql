-- A token is noted once where its key stays the same: always, but for SQL that goes round the guards.
create or replace function sallyport.note_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform sallyport.rev_note('t'::bytea || old.digest);
  if tg_op = 'UPDATE' and new.digest <> old.digest then
    perform sallyport.rev_note('t'::bytea || new.digest);
  end if;
  return null;
end $$;

-- Room for the next version of a row beside it: a revocation then writes no index (of pages filled from now on).
alter table sallyport.tokens set (fillfactor = 85);
