{{/*
The chart refuses these values, with the key and the reason. values.schema.json refuses shapes and types; it cannot give
reasons.
Every template that runs Sallyport includes it.
*/}}
{{- define "sallyport.checks" -}}
{{- $v := .Values -}}
{{- if and (eq (toString $v.image.tag) "latest") (not $v.image.digest) -}}
{{- fail "image.tag: latest changes under your feet: pods of one release would run different programs; name a version, or set image.digest" -}}
{{- end -}}
{{- $exposure := include "sallyport.exposure" . -}}
{{- $possible := dict "central" (list "loopback" "cluster") "node" (list "unix" "cluster") "sidecar" (list "unix" "loopback") -}}
{{- if not (has $exposure (get $possible $v.shape)) -}}
{{- fail (printf "data.exposure: shape %s cannot have %s: nobody could reach it, or everybody; use %s" $v.shape $exposure (join " or " (get $possible $v.shape))) -}}
{{- end -}}
{{- if eq $exposure "cluster" -}}
{{- if not $v.data.tlsSecret -}}
{{- fail "data.tlsSecret: is required with data.exposure cluster: token strings would be readable on the wire" -}}
{{- end -}}
{{- if not $v.data.allowedSans -}}
{{- fail "data.allowedSans: is required with data.exposure cluster: it names who may ask whether a token is good" -}}
{{- end -}}
{{- else if or $v.data.tlsSecret $v.data.allowedSans -}}
{{- fail (printf "data.tlsSecret, data.allowedSans: have no effect with data.exposure %s; remove them, or use cluster" $exposure) -}}
{{- end -}}
{{- if and (ne $v.shape "central") (ne $v.admin.exposure "loopback") -}}
{{- fail (printf "admin.exposure: shape %s has no admin listener; leave it at loopback" $v.shape) -}}
{{- end -}}
{{- if and (ne $v.shape "central") $v.existingOwnerSecret -}}
{{- fail (printf "existingOwnerSecret: shape %s does not migrate; only central does" $v.shape) -}}
{{- end -}}
{{- range $key, $reason := dict
  "mode" "the chart sets it by shape"
  "listeners" "the chart sets them: use the values admin and data"
  "embedded" "the embedded database lives in one process and is lost with its pod: use PostgreSQL"
  "break_glass" "its secret would stand in a ConfigMap, or need a file that the chart does not mount"
  "keyring" "it would stand in a ConfigMap: put it into existingSecret, key keyring"
  "keyring_file" "the chart sets it: put the keyring into existingSecret, key keyring"
  "signing" "it would stand in a ConfigMap: put it into existingSecret, key signing, and set config.signing_file" -}}
{{- if hasKey $v.config $key -}}
{{- fail (printf "config.%s: %s" $key $reason) -}}
{{- end -}}
{{- end -}}
{{- range list "callers" "database" "journal" "redis" "revocation" -}}
{{- if and (hasKey $v.config .) (not (kindIs "map" (get $v.config .))) -}}
{{- fail (printf "config.%s: must be a map of keys" .) -}}
{{- end -}}
{{- end -}}
{{- range $path, $reason := dict
  "database.url" "it would stand in a ConfigMap: put it into existingSecret, key database-url"
  "database.url_file" "the chart sets it: put the URL into existingSecret, key database-url"
  "database.direct_url" "it would stand in a ConfigMap: put it into existingSecret, key direct-database-url, and set config.database.direct_url_file"
  "database.allow_fsync_off" "a server with fsync=off loses acknowledged revocations"
  "journal.url" "it would stand in a ConfigMap: put it into existingSecret, key journal-url, and set config.journal.url_file"
  "redis.url" "it would stand in a ConfigMap: put it into existingSecret, key redis-url, and set config.redis.url_file" -}}
{{- $section := index (splitList "." $path) 0 -}}
{{- $key := index (splitList "." $path) 1 -}}
{{- if and (hasKey $v.config $section) (hasKey (get $v.config $section) $key) -}}
{{- fail (printf "config.%s: %s" $path $reason) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey $v.config "workers") (ne $v.shape "central") -}}
{{- fail (printf "config.workers: shape %s runs in mode validate, which has no workers; only central has them" $v.shape) -}}
{{- end -}}
{{- $revocation := default dict $v.config.revocation -}}
{{- $lease := include "sallyport.milliseconds" (dict "key" "config.revocation.lease" "text" (default "1500ms" $revocation.lease)) | int64 -}}
{{- $poll := include "sallyport.milliseconds" (dict "key" "config.revocation.poll" "text" (default "400ms" $revocation.poll)) | int64 -}}
{{- /* poll · 1.2 + 500ms < lease, in whole numbers */ -}}
{{- if ge (add (mul $poll 12) 5000) (mul $lease 10) -}}
{{- fail (printf "config.revocation.lease: %dms is too short for a poll each %dms: no cache could ever be used; poll · 1.2 + 500ms must be less" $lease $poll) -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.milliseconds" -}}
{{- if not (regexMatch "^[0-9]{1,9}(ms|s|m|h|d)$" (toString .text)) -}}
{{- fail (printf "%s: must be a duration such as 1500ms" .key) -}}
{{- end -}}
{{- $unit := regexFind "[a-z]+$" .text -}}
{{- mul (regexFind "^[0-9]+" .text | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit) -}}
{{- end -}}
