{{/* Name of the release's objects: `yoban-operator` for a release called yoban. */}}
{{- define "yoban.name" -}}
{{- if contains "yoban" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}-operator
{{- else -}}{{ .Release.Name | trunc 44 | trimSuffix "-" }}-yoban-operator{{- end -}}
{{- end }}

{{- define "yoban.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels that select the operator's Pods; a NetworkPolicy of each Database names the first two. */}}
{{- define "yoban.selector" -}}
app.kubernetes.io/name: yoban
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "yoban.labels" -}}
{{ include "yoban.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
