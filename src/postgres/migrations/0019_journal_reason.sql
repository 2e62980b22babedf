-- The journal is not the one of this database, or lacks changes: closes the guard. False if an operator does without it, or
-- another process has found everything meanwhile. A later reason now replaces an earlier one: an operator who has mended the
-- first fault reads what is still wrong.
create or replace function sallyport.journal_mismatch(epoch text, why text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from sallyport.rev_state for update;
  if exists (
    select from sallyport.rev_state s where s.waived = journal_mismatch.epoch or s.compared = journal_mismatch.epoch
  ) then
    return false;
  end if;
  update sallyport.rev_state s set guard = 'regressed', mismatch = left(why, 200), journal = true
  where s.guard = 'ok' or (s.mismatch is not null and s.mismatch is distinct from left(why, 200));
  if found then
    perform pg_notify('sallyport_rev', '');
  end if;
  return true;
end $$;
