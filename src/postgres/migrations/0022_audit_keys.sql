-- no-transaction
-- The audit in months, part one: the keys that its first partition needs, made while everybody writes.
drop index concurrently if exists sallyport.audit_first_key;
create unique index concurrently audit_first_key on sallyport.audit (seq, at);
drop index concurrently if exists sallyport.audit_first_by_xid;
create index concurrently audit_first_by_xid on sallyport.audit (xid, seq);
