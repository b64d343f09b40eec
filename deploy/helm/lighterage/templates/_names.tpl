{{/* Labels of everything. `component: velero` is what Velero's own installation sets. */}}
{{- define "lighterage.labels" -}}
component: velero
app.kubernetes.io/name: lighterage
app.kubernetes.io/component: node-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The rules of the role of a kind in a manifest of deploy/daemonset, comments included: (list $ FILE KIND). */}}
{{- define "lighterage.rules" -}}
{{- $kind := index . 2 }}
{{- range splitList "\n---\n" ((index . 0).Files.Get (index . 1)) }}
{{- if eq (fromYaml .).kind $kind }}
{{- regexFind "(?s)\nrules:\n.*" . | trim }}
{{- end }}
{{- end }}
{{- end }}

{{/* The subject of a binding: (list $ ACCOUNT). */}}
{{- define "lighterage.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ index . 1 }}
    namespace: {{ (index . 0).Release.Namespace }}
{{- end }}

{{- define "lighterage.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}
