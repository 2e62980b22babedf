-- How often a token was used, as far as it is counted since.
alter table sallyport.token_usage add column use_count bigint not null default 0;

-- The view as it is, with the new column at its end.
do $$
declare
  made text := regexp_replace(pg_get_viewdef('sallyport.token_view'::regclass), E'\n   FROM ',
    E',\n    COALESCE(u.use_count, (0)::bigint) AS use_count\n   FROM ');
begin
  execute 'create or replace view sallyport.token_view with (security_invoker = true) as ' || made;
end $$;
