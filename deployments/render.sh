#!/bin/sh
# Writes from the chart in helm/packhorse what is kept beside it: the manifests for those who have no helm, and the parts that the
# tests apply one by one. Needs Go. Run it after every change of the chart; a test compares.
set -eu
cd "$(dirname "$0")"
chart=$PWD/helm/packhorse
if [ -z "${PACKHORSE_HELM:-}" ]; then
  PACKHORSE_HELM=$(mktemp -d)/packhorse-helm
  go -C ../tests/helm build -o "$PACKHORSE_HELM" .
fi

# render FILE FLAGS...: one manifest.
render() {
  to=$1
  shift
  mkdir -p "${to%/*}"
  {
    echo "# Rendered from deployments/helm/packhorse by deployments/render.sh; change it there."
    "$PACKHORSE_HELM" template "$chart" "$@"
  } > "$to.new"
  mv "$to.new" "$to"
}

render rbac/namespace.yaml --set namespace.create=true --show-only namespace.yaml
for part in server scheduler agent; do
  render "rbac/$part.yaml" --show-only "rbac/$part.yaml"
done
render scheduler/kube-scheduler.yaml --show-only scheduler/kube-scheduler.yaml
render webhook/mutating-webhook.yaml --show-only webhook/mutating-webhook.yaml
render webhook/service.yaml --show-only webhook/service.yaml
render webhook/policies.yaml --show-only webhook/policies.yaml --show-only webhook/marked.yaml
# Replaces an object of each of the two files above, and adds a policy.
render webhook/opt-in.yaml --set webhook.optIn=true \
  --show-only webhook/mutating-webhook.yaml --show-only webhook/marked.yaml --show-only webhook/opted-in.yaml
render static/packhorse.yaml --set namespace.create=true

mkdir -p k3s
{
  echo "# k3s and RKE2 install this when it lies in server/manifests below /var/lib/rancher/k3s or /var/lib/rancher/rke2."
  echo "# Rendered from deployments/helm/packhorse by deployments/render.sh; change it there."
  "$PACKHORSE_HELM" k3s "$chart" "$chart/values-k3s.yaml"
} > k3s/packhorse.yaml.new
mv k3s/packhorse.yaml.new k3s/packhorse.yaml
