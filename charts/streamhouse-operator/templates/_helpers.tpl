{{/* Names, labels and images. */}}

{{- define "streamhouse-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "streamhouse-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "streamhouse-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A ClusterRole's name says which namespace it is for: releases of one name may be in several. */}}
{{- define "streamhouse-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "streamhouse-operator.fullname" .) -}}
{{- end }}

{{- define "streamhouse-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "streamhouse-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must name one that exists when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "streamhouse-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "streamhouse-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Versions stand on the objects only, not in selectors and not on pods: a new chart alone shall restart nothing. */}}
{{- define "streamhouse-operator.labels" -}}
{{ include "streamhouse-operator.commonLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "streamhouse-operator.commonLabels" -}}
app.kubernetes.io/name: {{ include "streamhouse-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: streamhouse
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "streamhouse-operator.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository }}:{{ default .Chart.AppVersion $image.tag -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "streamhouse-operator.agentImage" -}}
{{- with .Values.agentImage.registry }}{{ . }}/{{ end -}}
{{- .Values.agentImage.repository -}}
{{- end }}

{{/* OpenShift refuses ids outside of the range of the namespace, and sets them by itself. */}}
{{- define "streamhouse-operator.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext -}}
{{- $openshift := toString .Values.openshift -}}
{{- if or (eq $openshift "true") (and (eq $openshift "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- with $context }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- define "streamhouse-operator.testNamespace" -}}
{{- default (default .Release.Namespace (first .Values.watchNamespaces)) .Values.tests.namespace -}}
{{- end }}

{{/* What no schema of the values can say. */}}
{{- define "streamhouse-operator.validate" -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "leaderElection.enabled must be true with more than one replica: two operators would work against each other" -}}
{{- end -}}
{{- if and .Values.tests.namespace .Values.watchNamespaces (not (has .Values.tests.namespace .Values.watchNamespaces)) -}}
{{- fail (printf "tests.namespace must be one of watchNamespaces: the operator does not see %s" .Values.tests.namespace) -}}
{{- end -}}
{{- range .Values.monitoringNamespaces -}}
{{- if and $.Values.watchNamespaces (not (has . $.Values.watchNamespaces)) -}}
{{- fail (printf "monitoringNamespaces must be among watchNamespaces: the operator has no rights in %s" .) -}}
{{- end -}}
{{- end -}}
{{- end }}
