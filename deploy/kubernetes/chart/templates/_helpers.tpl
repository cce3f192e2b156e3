{{- define "mtlsd.name" -}}
{{- if contains "mtlsd" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-mtlsd" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "mtlsd.selector" -}}
app.kubernetes.io/name: mtlsd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mtlsd.labels" -}}
{{ include "mtlsd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* What the daemon is told; `config` goes over it. */}}
{{- define "mtlsd.config" -}}
{{- $kubernetes := dict "default_mode" .Values.kubernetes.defaultMode "policies" .Values.kubernetes.policies }}
{{- with .Values.kubernetes.cgroupRoot }}{{ $_ := set $kubernetes "cgroup_root" . }}{{ end }}
{{- with .Values.kubernetes.networks }}{{ $_ := set $kubernetes "networks" . }}{{ end }}
{{- if .Values.kubernetes.resolveServices }}{{ $_ := set $kubernetes "resolve_services" true }}{{ end }}
{{- if .Values.direct.enabled }}{{ $_ := set $kubernetes "direct_port" (int .Values.direct.port) }}{{ end }}
{{- $own := dict "trust_domain" .Values.trustDomain "metrics" (dict "listen" .Values.metrics.listen) "kubernetes" $kubernetes }}
{{- if .Values.direct.enabled }}{{ $_ := set $own "direct" (dict "default" "auto") }}{{ end }}
{{- mustMergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- define "mtlsd.port" -}}
{{ regexFind "[0-9]+$" .Values.metrics.listen }}
{{- end }}

{{- /* An address of all interfaces is asked on loopback. */}}
{{- define "mtlsd.probeHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .Values.metrics.listen "" | trimPrefix "[" | trimSuffix "]" }}
{{- if eq $host "0.0.0.0" }}127.0.0.1{{ else if eq $host "::" }}::1{{ else }}{{ $host }}{{ end }}
{{- end }}

{{- /* Rules of files/rights.json, which is made of the daemon's own list; a rule for each reason. `when`: which of them. */}}
{{- define "mtlsd.rules" -}}
{{- range $right := (.root.Files.Get "files/rights.json" | fromJsonArray) }}
{{- if has $right.when $.when }}
# {{ $right.why }}
- apiGroups: [{{ $right.apiGroup | quote }}]
  resources: [{{ $right.resource | quote }}]
  verbs: {{ $right.verbs | toJson }}
{{- end }}
{{- end }}
{{- end }}
