{{/* The name of everything of this release, so that two releases fit into one namespace. */}}
{{- define "sallyport.name" -}}
{{- if contains "sallyport" .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-sallyport" .Release.Name -}}
{{- end -}}
{{- end -}}

{{/* Names of releases have up to 53 characters, those of Jobs up to 63. */}}
{{- define "sallyport.migrateName" -}}
{{- $name := include "sallyport.name" . -}}
{{- if gt (len $name) 55 -}}
{{- $name = printf "%s-%s" (trunc 44 $name) (sha256sum $name | trunc 10) -}}
{{- end -}}
{{- printf "%s-migrate" $name -}}
{{- end -}}

{{- define "sallyport.selector" -}}
app.kubernetes.io/name: sallyport
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sallyport.labels" -}}
{{ include "sallyport.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sallyport.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.exposure" -}}
{{- default (get (dict "central" "loopback" "node" "unix" "sidecar" "unix") .Values.shape) .Values.data.exposure -}}
{{- end -}}

{{/* The folder on the node that holds the socket. Releases of other namespaces have theirs. */}}
{{- define "sallyport.nodeFolder" -}}
/run/sallyport/{{ .Release.Namespace }}/{{ include "sallyport.name" . }}
{{- end -}}

{{/* sallyport.yaml: the value config, and over it the keys that the shape decides. */}}
{{- define "sallyport.config" -}}
{{- include "sallyport.checks" . -}}
{{- $exposure := include "sallyport.exposure" . -}}
{{- $data := dict "bind" "127.0.0.1:7400" -}}
{{- if eq $exposure "unix" -}}
{{- $data = dict "bind" "unix:/run/sallyport/data.sock" "unix_mode" "0660" -}}
{{- else if eq $exposure "cluster" -}}
{{- $data = dict "bind" "0.0.0.0:7400" "tls" (dict "cert_file" "/run/secrets/data-tls/tls.crt" "key_file" "/run/secrets/data-tls/tls.key" "client_ca_file" "/run/secrets/data-tls/ca.crt" "allowed_sans" .Values.data.allowedSans) -}}
{{- end -}}
{{- $listeners := dict "data" $data "ops" (dict "bind" "0.0.0.0:7402") -}}
{{- if eq .Values.shape "central" -}}
{{- $admin := dict "bind" "127.0.0.1:7401" -}}
{{- if eq .Values.admin.exposure "cluster" -}}
{{- $tls := dict "cert_file" "/run/secrets/admin-tls/tls.crt" "key_file" "/run/secrets/admin-tls/tls.key" -}}
{{- if include "sallyport.adminClients" . -}}
{{- $_ := set $tls "client_ca_file" "/run/secrets/admin-tls/ca.crt" -}}
{{- end -}}
{{- $admin = dict "bind" "0.0.0.0:7401" "tls" $tls -}}
{{- end -}}
{{- $_ := set $listeners "admin" $admin -}}
{{- end -}}
{{- $set := dict "mode" (ternary "full" "validate" (eq .Values.shape "central")) "listeners" $listeners "database" (dict "url_file" "/run/secrets/sallyport/database-url") "keyring_file" "/run/secrets/sallyport/keyring" -}}
{{- mergeOverwrite (deepCopy .Values.config) $set | toYaml -}}
{{- end -}}

{{/* Not empty if client certificates are callers of the admin listener. */}}
{{- define "sallyport.adminClients" -}}
{{- with .Values.config.callers }}{{ with .mtls }}yes{{ end }}{{ end -}}
{{- end -}}

{{/* A container of Sallyport, the same in every shape. */}}
{{- define "sallyport.container" -}}
image: {{ include "sallyport.image" . }}
ports:
  - { name: sallyport-ops, containerPort: 7402 }
startupProbe: # the first start may migrate
  grpc: { port: 7402 }
  periodSeconds: 1
  failureThreshold: 300
readinessProbe:
  grpc: { port: 7402 }
  periodSeconds: 5
livenessProbe: # not gRPC health: a database that is away must not restart the pods
  httpGet: { path: /healthz, port: 7402 }
  periodSeconds: 10
  failureThreshold: 3
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
{{- with .Values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - { name: sallyport-config, mountPath: /etc/sallyport, readOnly: true }
  - { name: sallyport-secrets, mountPath: /run/secrets/sallyport, readOnly: true }
{{- if eq (include "sallyport.exposure" .) "unix" }}
  - { name: sallyport-socket, mountPath: /run/sallyport }
{{- end }}
{{- if eq (include "sallyport.exposure" .) "cluster" }}
  - { name: data-tls, mountPath: /run/secrets/data-tls, readOnly: true }
{{- end }}
{{- if eq .Values.admin.exposure "cluster" }}
  - { name: admin-tls, mountPath: /run/secrets/admin-tls, readOnly: true }
{{- end }}
{{- end -}}

{{/* The volumes of that container, but for the socket. Files of mode 0440: the group is the pod's fsGroup. */}}
{{- define "sallyport.files" -}}
- name: sallyport-config
  configMap: { name: {{ include "sallyport.name" . }} }
- name: sallyport-secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .Values.existingSecret }}
          items: [{ key: database-url, path: database-url }, { key: keyring, path: keyring }]
      {{- range list "redis-url" "direct-database-url" "journal-url" "signing" }}
      - secret:
          name: {{ $.Values.existingSecret }}
          items: [{ key: {{ . }}, path: {{ . }} }]
          optional: true
      {{- end }}
{{- if eq (include "sallyport.exposure" .) "cluster" }}
- name: data-tls
  secret: { secretName: {{ .Values.data.tlsSecret }}, defaultMode: 0440 }
{{- end }}
{{- if eq .Values.admin.exposure "cluster" }}
- name: admin-tls
  secret: { secretName: {{ .Values.admin.tlsSecret }}, defaultMode: 0440 }
{{- end }}
{{- end -}}
