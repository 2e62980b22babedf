{{/*
For your own chart, which has this one as a dependency with `shape: sidecar`. In your pod template:

  metadata:
    labels: {{- include "sallyport.sidecar.labels" .Subcharts.sallyport | nindent 8 }}
  spec:
    securityContext: { fsGroup: 10001 }
    initContainers: {{- include "sallyport.sidecar" .Subcharts.sallyport | nindent 8 }}
    containers:
      - name: app
        volumeMounts: [{ name: sallyport-socket, mountPath: /run/sallyport }]
    volumes: {{- include "sallyport.sidecar.volumes" .Subcharts.sallyport | nindent 8 }}
*/}}
{{- define "sallyport.sidecar" -}}
{{- include "sallyport.checks" . -}}
{{- if ne .Values.shape "sidecar" -}}
{{- fail "shape: the template sallyport.sidecar needs shape sidecar" -}}
{{- end -}}
- name: sallyport
  restartPolicy: Always # a native sidecar: ready before your service starts, ends after it
  {{- include "sallyport.container" . | nindent 2 }}
{{- end -}}

{{- define "sallyport.sidecar.volumes" -}}
{{ include "sallyport.files" . }}
- name: sallyport-socket
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- end -}}

{{- define "sallyport.sidecar.labels" -}}
sallyport/release: {{ include "sallyport.name" . }}
{{- end -}}
