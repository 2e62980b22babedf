-- A trigger function runs with the rights of its owner, and whoever may execute it can put it on a table of their own.
-- The server checks the right when a trigger is made, not when it fires: those that are there go on.
do $$
declare
  f record;
begin
  for f in
    select p.oid::regprocedure as name from pg_proc p join pg_namespace s on s.oid = p.pronamespace
    where s.nspname = 'sallyport' and p.prorettype = 'trigger'::regtype
  loop
    execute format('revoke execute on function %s from public', f.name);
  end loop;
end $$;
