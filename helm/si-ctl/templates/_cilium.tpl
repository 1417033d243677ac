{{/*
What NetworkPolicies cannot say to Cilium. It matches no address range against the API server or a node, so
the controller reaches the API by an entity. Host names are for those who list them.
*/}}
{{- define "si-ctl.cilium" -}}
{{- $cilium := .Values.networkPolicy.cilium -}}
{{- $known := .Capabilities.APIVersions.Has "cilium.io/v2/CiliumNetworkPolicy" -}}
{{- $wanted := ternary $known $cilium.enabled (kindIs "invalid" $cilium.enabled) -}}
{{- if and $wanted .Values.networkPolicy.apiServer.enabled }}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {{ include "si-ctl.release" . }}-api-server
  labels: {{- include "si-ctl.labels" (list . "network") | nindent 4 }}
spec:
  endpointSelector:
    matchLabels: {{- include "si-ctl.pods" (list . "controller") | nindent 6 }}
  egress:
    - toEntities: [kube-apiserver]
{{- end }}
{{- range $name, $component := dict "bucket" "" "hub" "fetch" }}
{{- $names := index $cilium $name }}
{{- if and $wanted $names }}
---
# Cilium learns a name's addresses from the answers of the DNS server, so it must see them.
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {{ include "si-ctl.release" $ }}-{{ $name }}-names
  labels: {{- include "si-ctl.labels" (list $ "network") | nindent 4 }}
spec:
  endpointSelector:
    matchLabels: {{- include "si-ctl.pods" (ternary (list $ $component) (list $) (ne $component "")) | nindent 6 }}
  egress:
    - toEndpoints:
        - matchLabels:
            k8s:io.kubernetes.pod.namespace: kube-system
      toPorts:
        - ports:
            {{- range $.Values.networkPolicy.dns.ports }}
            - port: {{ . | quote }}
              protocol: ANY
            {{- end }}
          rules:
            dns:
              - matchPattern: "*"
    - toFQDNs: {{- toYaml $names | nindent 8 }}
      toPorts:
        - ports:
            {{- range (index $.Values.networkPolicy $name).ports }}
            - port: {{ . | quote }}
              protocol: TCP
            {{- end }}
{{- end }}
{{- end }}
{{- end }}
