-- Asks Sallyport about a request with the HTTP client of HAProxy itself (2.5 or newer): the credential and X-Forwarded-* go out,
-- identity headers come back. Loaded by haproxy.cfg. Page: docs/proxies/haproxy.md
local IDENTITY = { "x-auth-principal", "x-auth-tenant", "x-auth-token-id", "x-auth-scopes", "x-auth-profile" }
local TO_CLIENT = { "www-authenticate", "retry-after", "content-type", "cache-control" }
local ASKED = { ["authorization"] = true, ["x-api-key"] = true, ["origin"] = true, ["access-control-request-method"] = true }

core.register_action("authz", { "http-req" }, function(txn, url)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if ASKED[name] then
      headers[name] = {}
      -- Every value: two credentials must be seen as two.
      for _, value in pairs(values) do table.insert(headers[name], value) end
    end
  end
  headers["x-forwarded-method"] = { txn.f:method() }
  headers["x-forwarded-uri"] = { txn.f:pathq() }
  headers["x-forwarded-host"] = { txn.f:req_fhdr("host") or "" }
  headers["x-forwarded-for"] = { txn.f:src() }
  headers["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" }

  -- The client tries four times: 4 x 60 ms.
  local answer = core.httpclient():get { url = url, headers = headers, timeout = 60 }
  local status = (answer and answer.status) or 0

  if status == 200 then
    for _, name in ipairs(IDENTITY) do
      local values = answer.headers and answer.headers[name]
      if values then txn.http:req_set_header(name, values[0] or values[1]) end
    end
    -- The credential stays here.
    txn.http:req_del_header("authorization")
    txn.http:req_del_header("x-api-key")
    return
  end

  local reply = txn:reply()
  -- 502 and 504 are the client's own: nobody there, no answer in time. Anything else that is no denial is none of Sallyport's.
  if status >= 400 and status ~= 502 and status ~= 504 then
    reply:set_status(status)
    for _, name in ipairs(TO_CLIENT) do
      local values = answer.headers and answer.headers[name]
      if values then reply:add_header(name, values[0] or values[1]) end
    end
    reply:set_body(answer.body or "")
  else
    reply:set_status(503)
    reply:add_header("retry-after", "1")
    reply:add_header("cache-control", "no-store")
  end
  txn:done(reply)
end, 1)
