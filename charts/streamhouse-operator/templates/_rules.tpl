{{/* The operator's rights, as little as its work needs. A test of the operator holds them against the kinds that it makes. */}}

{{/* In each namespace that it looks after. */}}
{{- define "streamhouse-operator.rules" -}}
# Its own resources. The finalizers stand for the owner references that block a deletion.
- apiGroups: [streamhouse.io]
  resources: [streamhouseclusters, topics, users]
  verbs: [get, list, watch, patch, update]
- apiGroups: [streamhouse.io]
  resources: [streamhouseclusters/status, topics/status, users/status]
  verbs: [get, patch, update]
- apiGroups: [streamhouse.io]
  resources: [streamhouseclusters/finalizers, topics/finalizers, users/finalizers]
  verbs: [update]
# What it makes for a cluster.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [ingresses, networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [prometheusrules, servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [grpcroutes, tlsroutes]
  verbs: [get, list, watch, create, patch, delete]
# Connection strings, keys and passwords, by the names in the specs of clusters and users; and the Secrets that it writes for clients of users.
# It cannot list or delete them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# Why an agent does not start; the label by which the Services of additional listeners select one agent; and the annotation that lets kubelets
# update addresses for Kafka clients.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
# Whether a namespace is going away.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* Nodes belong to no namespace. A listener of type nodeport advertises their addresses. */}}
{{- define "streamhouse-operator.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end }}

{{/* In its own namespace: the Lease that says who leads. A creation cannot be limited by name. */}}
{{- define "streamhouse-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "streamhouse-operator.fullname" . }}]
  verbs: [get, update]
{{- end }}
