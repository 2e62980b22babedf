-- The view names its columns, so that reading it says what a token is. A later column stands at the end of the list,
-- behind the families here: `create or replace view` keeps the rights, and the order of what is there.
create or replace view sallyport.token_view with (security_invoker = true) as
select t.id, t.digest, t.kid, t.hint, t.tenant, t.profile, t.principal, t.display_name, t.description, t.scopes,
  t.audiences, t.allowed_cidrs, t.annotations, t.disabled, t.create_time, t.created_by, t.not_before_time,
  t.expire_time, t.revoke_time, t.revoked_by, t.revoke_reason, t.parent_id, t.family, t.rotated_from, t.rotated_to,
  t.issued_n, t.revision,
  u.last_use_time, u.last_use_address,
  case
    when t.revoke_time is not null or p.state = 'DELETED' or t.issued_n < p.cut_n or t.issued_n < o.cut_n
      or q.revoke_time is not null or q.disabled or q.expire_time <= c.now or q.issued_n < p.cut_n
      or q.issued_n < o.cut_n or q.not_before_time > c.now then 'REVOKED'
    when t.disabled or p.state <> 'ACTIVE' or o.state <> 'ACTIVE' then 'DISABLED'
    when t.expire_time <= c.now then 'EXPIRED'
    when t.not_before_time > c.now then 'NOT_YET_VALID'
    else 'ACTIVE'
  end as state,
  t.family_time, t.family_life
from sallyport.tokens t
  join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id
  left join sallyport.token_usage u on u.token_id = t.id
  cross join (select clock_timestamp() as now offset 0) c;
