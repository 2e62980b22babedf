-- What the first token of a family was given when it was made: a rotation hands it on, and never gives more. Null in rows
-- of before: those count as the first of theirs.
alter table sallyport.tokens
  add column family_time timestamptz,
  -- Milliseconds; null with a time: without end.
  add column family_life bigint;

-- Nothing that is given grows afterwards, whoever writes.
create function sallyport.guard_family() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if (old.family_time is not null and new.family_time is distinct from old.family_time)
     or (old.family_life is not null and (new.family_life is null or new.family_life > old.family_life)) then
    raise exception 'what a family was given does not grow' using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger guard_family before update of family_time, family_life on sallyport.tokens
  for each row execute function sallyport.guard_family();
alter table sallyport.tokens enable always trigger guard_family;

-- Whoever ends a principal or a tenant must hold what its tokens hold of these: a few rows of very many.
create index tokens_of_administrators on sallyport.tokens (tenant, principal)
  where scopes && '{sallyport.operator,sallyport.*,sallyport.admin}'::text[];
