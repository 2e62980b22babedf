-- no-transaction
-- For the list of the tokens that are attached to a tenant. No lock here stops a reader or a writer of tokens.
drop index concurrently if exists sallyport.tokens_attached;
create index concurrently tokens_attached on sallyport.tokens using gin (tenants) where tenants <> '{}';
