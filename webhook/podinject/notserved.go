package podinject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/millrace/millrace/apis/contract"
)

// NotServed are the wishes of a pod that are not fulfilled, a sentence each, in
// a fixed order. A pod whose labels ask for nothing has none.
func NotServed(pod *corev1.Pod) []string {
	sidecar, locality := asks(pod)
	if !sidecar && !locality {
		return nil
	}
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if sidecar && pod.Labels[contract.LabelUnprivilegedSidecar] == labelTrue {
		say("%s: the FUSE sidecar is privileged all the same: use %s to mount without a sidecar", contract.LabelUnprivilegedSidecar, contract.LabelServerfulFuse)
	}
	if sidecar && pod.Labels[contract.LabelCacheDirSidecar] == labelTrue {
		say("%s: the FUSE sidecar has no cache directory: the workers keep the cache", contract.LabelCacheDirSidecar)
	}
	if platform := pod.Annotations[contract.AnnotationPlatform]; sidecar && platform != "" && !strings.EqualFold(platform, "default") {
		say("%s: platform %q is not known: the sidecar is that of ordinary nodes", contract.AnnotationPlatform, platform)
	}
	if sidecar && !usesClusterDNS(pod) {
		say("the pod does not resolve names by the cluster's DNS, by which the FUSE sidecar finds its cache: set spec.dnsPolicy to %s", corev1.DNSClusterFirstWithHostNet)
	}
	if pod.Annotations[contract.AnnotationPrefetch] == labelTrue {
		say("%s: files are not read ahead by a container of the pod: create a DataLoad of the Dataset", contract.AnnotationPrefetch)
	}
	mounted := append(claimsOf(pod), strings.Split(pod.Annotations[contract.AnnotationDatasetsInUse], ",")...)
	for _, key := range slices.Sorted(maps.Keys(pod.Labels)) {
		name, ok := contract.SchedLabelDataset(key)
		switch {
		case !ok:
		case pod.Labels[key] != contract.SchedRequired:
			say("%s: value %q is not known: only %q is", key, pod.Labels[key], contract.SchedRequired)
		case !slices.Contains(mounted, name):
			say("%s: the pod mounts no claim %s", key, name)
		}
	}
	return out
}

// usesClusterDNS tells whether the names of Services mean something in a pod,
// as far as its words show it: what dnsConfig names may be the cluster's DNS.
func usesClusterDNS(pod *corev1.Pod) bool {
	if pod.Spec.DNSConfig != nil && len(pod.Spec.DNSConfig.Nameservers) > 0 {
		return true
	}
	switch pod.Spec.DNSPolicy {
	case corev1.DNSClusterFirst, "":
		return !pod.Spec.HostNetwork
	default:
		return pod.Spec.DNSPolicy == corev1.DNSClusterFirstWithHostNet
	}
}

// asks tells what the labels of a pod ask for: the FUSE sidecar, and locality
// without one.
func asks(pod *corev1.Pod) (sidecar, locality bool) {
	if pod.Labels[contract.LabelEnableInjection] == "false" {
		return false, false
	}
	return pod.Labels[contract.LabelServerlessFuse] == labelTrue, pod.Labels[contract.LabelServerfulFuse] == labelTrue
}
