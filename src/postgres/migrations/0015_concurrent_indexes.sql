-- no-transaction
-- Each statement alone: no lock here stops a reader or a writer of tokens. A run that broke off leaves an invalid index, so
-- each is dropped before it is made.

alter table sallyport.tokens validate constraint tokens_roles_check;

drop index concurrently if exists sallyport.tokens_of_role;
create index concurrently tokens_of_role on sallyport.tokens using gin (roles) where roles <> '{}';

-- The lists of all tenants, of a family and of a token's children, each in the order of the list.
drop index concurrently if exists sallyport.tokens_of_all;
create index concurrently tokens_of_all on sallyport.tokens (create_time desc, id desc);
drop index concurrently if exists sallyport.tokens_of_family;
create index concurrently tokens_of_family on sallyport.tokens (family, create_time desc, id desc);
drop index concurrently if exists sallyport.tokens_of_parent;
create index concurrently tokens_of_parent on sallyport.tokens (parent_id, create_time desc, id desc)
  where parent_id is not null;

-- Last: their successors are in place.
drop index concurrently if exists sallyport.tokens_by_family;
drop index concurrently if exists sallyport.tokens_by_parent;
