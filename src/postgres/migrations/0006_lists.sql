-- Each filter of a list has an index in the order of the list, or is asked of a bounded number of rows at a time.
-- No index of tokens names a column that a revocation writes, not even in its predicate: its update then writes no index.
create index tokens_of_hint on sallyport.tokens (tenant, hint, create_time desc, id desc);
drop index sallyport.tokens_by_hint;
create index tokens_of_profile on sallyport.tokens (tenant, profile, create_time desc, id desc);
create index tenants_newest on sallyport.tenants (create_time desc, id desc);

-- By time, then by number: a span of time is a range of each of them.
create index audit_by_time on sallyport.audit (tenant, at desc, seq desc);
create index audit_of_target on sallyport.audit (tenant, target, at desc, seq desc);
create index audit_of_owner on sallyport.audit (tenant, owner, at desc, seq desc) where owner <> '';
create index audit_of_actor on sallyport.audit (tenant, actor, at desc, seq desc);
create index audit_of_action on sallyport.audit (tenant, action, at desc, seq desc);
drop index sallyport.audit_newest;
drop index sallyport.audit_by_target;
drop index sallyport.audit_by_owner;
