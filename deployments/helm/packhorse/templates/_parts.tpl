{{/* Packhorse's names, accounts and namespace are part of its contract: its admission policies name them. */}}
{{- define "packhorse.namespace" -}}
{{- if ne .Release.Namespace "packhorse-system" -}}
{{- fail (printf "the namespace is %q: Packhorse runs in packhorse-system only, which its admission policies name; install it with --namespace packhorse-system --create-namespace" .Release.Namespace) -}}
{{- end -}}
packhorse-system
{{- end -}}

{{/* Labels of every object. Takes the root, and the component as "component" where there is one. */}}
{{- define "packhorse.labels" -}}
app.kubernetes.io/name: packhorse
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "packhorse.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* kube-scheduler of the cluster's own version: what distributions append (+k3s1, -eks-1234, -gke.5) is not part of its image's tag. */}}
{{- define "packhorse.schedulerImage" -}}
{{- $tag := .Values.scheduler.image.tag -}}
{{- if not $tag -}}
{{- $tag = regexFind "^v[0-9]+[.][0-9]+[.][0-9]+(-(alpha|beta|rc)[.][0-9]+)?" .Capabilities.KubeVersion.Version -}}
{{- end -}}
{{ .Values.scheduler.image.repository }}:{{ $tag }}
{{- end -}}

{{/* The runtime classes that the webhook has to see: the configuration's, else the server's own default. */}}
{{- define "packhorse.runtimeClasses" -}}
{{- $classes := dig "webhook" "nvidiaRuntimeClasses" (list "nvidia" "nvidia-cdi" "nvidia-legacy") .Values.config -}}
{{- $quoted := list -}}
{{- range $classes }}{{ $quoted = append $quoted (squote .) }}{{ end -}}
[{{ join ", " $quoted }}]
{{- end -}}

{{/* Namespaces whose pods Packhorse never sees, as a YAML list. */}}
{{- define "packhorse.excludedNamespaces" -}}
[{{ join ", " (prepend .Values.webhook.excludedNamespaces (include "packhorse.namespace" .)) }}]
{{- end -}}

{{/* Whether the server keeps the webhook's certificate itself. */}}
{{- define "packhorse.selfManaged" -}}
{{- if eq .Values.webhook.certificate.source "self-managed" }}true{{ end -}}
{{- end -}}

{{/* The Secret with a certificate that somebody else keeps. */}}
{{- define "packhorse.certificateSecret" -}}
{{- if eq .Values.webhook.certificate.source "secret" -}}
{{ .Values.webhook.certificate.secretName }}
{{- else -}}
packhorse-webhook-tls
{{- end -}}
{{- end -}}

{{/* Secrets with which the images of a pod are pulled. */}}
{{- define "packhorse.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}
