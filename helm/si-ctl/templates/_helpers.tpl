{{/* The release's name, which begins the name of every object; si-ctl knows the same limit. */}}
{{- define "si-ctl.release" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,12}[a-z0-9])?$" .Release.Name) -}}
{{- fail (printf "the release name %q is too long or odd: at most 14 of a-z, 0-9 and -, a letter first, so that the names of Jobs and pods fit" .Release.Name) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end }}

{{/* Labels of an object: (list $ COMPONENT). Those of the values take none of ours away. */}}
{{- define "si-ctl.labels" -}}
{{- $ := index . 0 -}}
{{- $ours := include "si-ctl.pods" . | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/name" "si-ctl" -}}
{{- $_ := set $ours "app.kubernetes.io/version" $.Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $ours $.Values.labels) -}}
{{- end }}

{{/* Labels by which pods are selected: (list $) for all of the release, (list $ COMPONENT) for one kind. */}}
{{- define "si-ctl.pods" -}}
app.kubernetes.io/part-of: si-ctl
app.kubernetes.io/instance: {{ include "si-ctl.release" (index . 0) | quote }}
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{- end }}

{{/* Name of the claim for what is fetched from the hub; empty for none. */}}
{{- define "si-ctl.cache" -}}
{{- if .Values.cache.enabled -}}
{{- .Values.cache.existingClaim | default (printf "%s-cache" (include "si-ctl.release" .)) -}}
{{- end -}}
{{- end }}

{{/*
Image of a kind of pods: (list $ KIND). A name without a path gets the registry and the tag of the values. Nodes
would look for it at a public registry, which does not have it, so without a registry it is refused.
*/}}
{{- define "si-ctl.image" -}}
{{- $ := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $image := (index $.Values.place.kubernetes $kind).image -}}
{{- if not (contains "/" $image) -}}
{{- with $.Values.images.tag -}}
{{- $image = printf "%s:%s" (regexReplaceAll "[:@].*$" $image "") . -}}
{{- end -}}
{{- with $.Values.images.registry -}}
{{- $image = printf "%s/%s" (trimSuffix "/" .) $image -}}
{{- end -}}
{{- if and (not (contains "/" $image)) (ne $.Values.place.kubernetes.pull_policy "Never") -}}
{{- fail (printf "place.kubernetes.%s.image is %q, which names no registry, so nodes cannot pull it. Set images.registry to where you pushed the images (docs/cluster.md, \"Get the images\"); if every node has it already, set place.kubernetes.pull_policy to Never" $kind $image) -}}
{{- end -}}
{{- end -}}
{{- $image -}}
{{- end }}

{{/* The place as si-ctl reads it: the values, and what the chart decides. */}}
{{- define "si-ctl.place" -}}
{{- $release := include "si-ctl.release" . -}}
{{- $place := deepCopy .Values.place -}}
{{- $_ := required "place.store is empty: name your bucket, for instance --set place.store=s3://bucket/prefix" $place.store -}}
{{- $_ := set $place.kubernetes "release" $release -}}
{{- $_ := set $place.kubernetes "controller_account" (printf "%s-controller" $release) -}}
{{- $_ := set $place.kubernetes "stage_account" (printf "%s-stage" $release) -}}
{{- $_ := set $place.kubernetes "cache_claim" (include "si-ctl.cache" .) -}}
{{- if not (hasKey $place.kubernetes "user") -}}{{/* Helm drops a null of the values. */}}
{{- $_ := set $place.kubernetes "user" nil -}}
{{- end -}}
{{- range $kind := list "explore" "verify" "train" -}}
{{- $_ := set (index $place.kubernetes $kind) "image" (include "si-ctl.image" (list $ $kind)) -}}
{{- end -}}
{{- toYaml (dict "place" $place) -}}
{{- end }}
