-- The form of a token's string, and the key that signed it if it is a JWT. All tokens so far are opaque. A type bounds the
-- column where a check would read every row first.
create type sallyport.token_format as enum ('opaque', 'jwt');
alter table sallyport.tokens
  add column format sallyport.token_format not null default 'opaque',
  add column signing_key text collate "C" not null default '';

-- The view as it is, with the new columns at its end.
do $$
declare
  made text := regexp_replace(pg_get_viewdef('sallyport.token_view'::regclass), E'\n   FROM ',
    E',\n    t.format,\n    t.signing_key\n   FROM ');
begin
  execute 'create or replace view sallyport.token_view with (security_invoker = true) as ' || made;
end $$;

-- The part of a JWT that is signed: a repeat of the request signs it again. Erased with the row.
alter table sallyport.requests add column signed text;

create or replace function sallyport.guard_token() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if old.revoke_time is not null and new.revoke_time is distinct from old.revoke_time then
    raise exception 'a revoked token stays revoked' using errcode = 'check_violation';
  end if;
  if (new.id, new.digest, new.kid, new.hint, new.tenant, new.principal, new.profile, new.create_time, new.created_by,
      new.parent_id, new.family, new.rotated_from, new.issued_n, new.format, new.signing_key)
     is distinct from
     (old.id, old.digest, old.kid, old.hint, old.tenant, old.principal, old.profile, old.create_time, old.created_by,
      old.parent_id, old.family, old.rotated_from, old.issued_n, old.format, old.signing_key) then
    raise exception 'what a token is cannot be changed' using errcode = 'check_violation';
  end if;
  if old.rotated_to <> '' and (new.rotated_to <> old.rotated_to
     or new.expire_time is null or new.expire_time > old.expire_time) then
    raise exception 'a rotated token keeps its end' using errcode = 'check_violation';
  end if;
  new.revision := old.revision + 1;
  return new;
end $$;
