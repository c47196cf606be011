// Package podinject changes the pods that ask for it by label: it puts the
// FUSE client of their Datasets into them as a native sidecar, and tells a
// stock scheduler where the bytes lie. A pod is changed completely or turned
// away with a message; one without the labels is never touched.
package podinject

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

const (
	labelTrue = "true"
	// binary is where the engine's image has its program; a probe has no entrypoint.
	binary = "/bin/cache"
	// startSeconds is how long a sidecar may take to mount.
	startSeconds = 180
)

// Rejection is why a pod is turned away, for the person who created it.
type Rejection struct{ message string }

func (r *Rejection) Error() string { return r.message }

func reject(format string, args ...any) error { return &Rejection{fmt.Sprintf(format, args...)} }

// Mutate gives the pod as it should be. It changes nothing of its arguments.
// The result of Mutate is a fixed point: other webhooks may have it called again.
func Mutate(pod *corev1.Pod, facts Facts) (*corev1.Pod, error) {
	sidecar, locality := asks(pod)
	if !sidecar && !locality {
		return pod, nil
	}
	out := pod.DeepCopy()
	done := pod.Labels[contract.LabelInjectDone] == labelTrue
	if !done {
		ready, err := precheck(pod, facts, sidecar)
		if err != nil {
			return nil, err
		}
		if !ready {
			return pod, nil
		}
		if missed := NotServed(pod); len(missed) > 0 && hasDataset(pod, facts) {
			set(&out.Annotations, contract.AnnotationNotServed, strings.Join(missed, "; "))
		}
	}
	preferBytes(out, facts)
	requireDatasets(out, facts)
	if sidecar && !done {
		if err := inject(out, facts); err != nil {
			return nil, err
		}
	}
	propagate(out, facts)
	return out, nil
}

func hasDataset(pod *corev1.Pod, facts Facts) bool {
	return slices.ContainsFunc(claimsOf(pod), func(name string) bool { _, is := facts.Claims[name]; return is })
}

// precheck turns a pod away whose Datasets cannot be mounted, unless it asks
// to be let through as it is.
func precheck(pod *corev1.Pod, facts Facts, sidecar bool) (ready bool, err error) {
	for _, name := range claimsOf(pod) {
		claim, relevant := facts.Claims[name]
		if !relevant {
			continue
		}
		why := unready(name, claim)
		if why == "" && sidecar {
			why = unfit(pod, name, claim)
		}
		if why != "" {
			if pod.Annotations[contract.AnnotationSkipPrecheck] == labelTrue {
				return false, nil
			}
			return false, reject("%s; or let the pod through unchanged by annotation %s: \"true\"", why, contract.AnnotationSkipPrecheck)
		}
	}
	return true, nil
}

// unready is why a claim cannot be mounted yet and what to do; "" if it can.
func unready(name string, claim Claim) string {
	switch ds := claim.Dataset; {
	case ds == nil && claim.Exists:
		return fmt.Sprintf("claim %s is labelled as a Dataset's, but no Dataset has its name: delete the claim or create the Dataset", name)
	case ds == nil:
		return fmt.Sprintf("claim %s does not exist, and no Dataset of that name: create the Dataset and its runtime first", name)
	case !ds.DeletionTimestamp.IsZero():
		return fmt.Sprintf("Dataset %s is being deleted: create it anew first", name)
	case ds.Status.Phase != datav1alpha1.BoundDatasetPhase && ds.Status.Phase != datav1alpha1.UpdatingDatasetPhase:
		return fmt.Sprintf("Dataset %s is not bound (phase %q): wait with kubectl wait --for=condition=Ready dataset/%s", name, ds.Status.Phase, name)
	case claim.Client == nil || len(claim.Client.Spec.Containers) == 0:
		return fmt.Sprintf("Dataset %s has no FUSE client yet: try again when its runtime is ready", name)
	}
	return ""
}

// unfit is why a pod can have no sidecar that mounts a claim; "" if it can.
// Kubernetes would turn it away as well, or never start it, for reasons that
// speak of what the sidecar brought along.
func unfit(pod *corev1.Pod, claim string, facts Claim) string {
	if facts.served().Namespace != facts.Dataset.Namespace {
		// Copies of them would let whoever may read pods' volumes here read them.
		return fmt.Sprintf("a FUSE sidecar cannot mount Dataset %s, which refers to a Dataset of namespace %s: it would need the configuration and the Secrets of that namespace in this one; use label %s in place of %s, which mounts without a sidecar",
			claim, facts.served().Namespace, contract.LabelServerfulFuse, contract.LabelServerlessFuse)
	}
	if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return fmt.Sprintf("a FUSE sidecar cannot mount Dataset %s on Windows: take the label %s off", claim, contract.LabelServerlessFuse)
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return fmt.Sprintf("a FUSE sidecar cannot mount Dataset %s in a user namespace (hostUsers: false): use label %s, which mounts without a sidecar", claim, contract.LabelServerfulFuse)
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != claim {
			continue
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == v.Name }) {
				return fmt.Sprintf("container %s uses Dataset %s as a block device: mount it with volumeMounts", c.Name, claim)
			}
		}
	}
	return ""
}

// claimsOf are the claims that a pod mounts, each once, in its order.
func claimsOf(pod *corev1.Pod) []string {
	var out []string
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && !slices.Contains(out, v.PersistentVolumeClaim.ClaimName) {
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return out
}

// inject puts one FUSE sidecar for each Dataset ahead of everything else and
// lets the volumes of the Datasets' claims show its mount.
func inject(pod *corev1.Pod, facts Facts) error {
	var sidecars []corev1.Container
	var datasets []string
	for _, name := range claimsOf(pod) {
		claim, relevant := facts.Claims[name]
		if !relevant {
			continue
		}
		namespace := claim.Dataset.Namespace
		dir := contract.SidecarMountDir(facts.MountRoot, claim.Type, namespace, name, facts.Suffix)
		s := sidecar{
			name: freeName(pod, sidecars), claim: claim, hostDir: dir,
			runtimeDir: contract.RuntimeDir(facts.MountRoot, claim.Type, claim.served().Namespace, claim.served().Name),
			fuseDir:    path.Join(dir, string(claim.Type)+"-fuse"),
		}
		containers, volumes, err := s.build()
		if err != nil {
			return err
		}
		sidecars = append(sidecars, containers...)
		datasets = append(datasets, name)
		replaceClaim(pod, name, s.fuseDir, claim.Sub)
		pod.Spec.Volumes = append(pod.Spec.Volumes, volumes...)
		for _, secret := range claim.Client.Spec.ImagePullSecrets {
			if !slices.Contains(pod.Spec.ImagePullSecrets, secret) {
				pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, secret)
			}
		}
		for _, c := range containers {
			set(&pod.Labels, contract.LabelSidecarDatasetName+c.Name, name)
			set(&pod.Labels, contract.LabelSidecarDatasetNamespace+c.Name, namespace)
		}
	}
	if len(sidecars) == 0 {
		return nil
	}
	pod.Spec.InitContainers = append(sidecars, pod.Spec.InitContainers...)
	set(&pod.Labels, contract.LabelInjectDone, labelTrue)
	set(&pod.Annotations, contract.AnnotationDatasetsInUse, strings.Join(datasets, ","))
	return nil
}

// freeName is fluid-fuse-<i>, where i is the first number that no container of
// the pod has, no volume has as its beginning, and no sidecar has taken.
func freeName(pod *corev1.Pod, taken []corev1.Container) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s%d", contract.SidecarName, i)
		has := func(c corev1.Container) bool { return c.Name == name }
		if !slices.ContainsFunc(pod.Spec.InitContainers, has) && !slices.ContainsFunc(pod.Spec.Containers, has) && !slices.ContainsFunc(taken, has) &&
			!slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, name+"-") }) {
			return name
		}
	}
}

// replaceClaim lets every volume of a claim show a directory of the host. What
// the claim's volume source forbade, the mounts forbid now; a directory of it is
// what they begin at.
func replaceClaim(pod *corev1.Pod, claim, hostDir, sub string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != claim {
			continue
		}
		if v.PersistentVolumeClaim.ReadOnly {
			eachMount(pod, func(m *corev1.VolumeMount) {
				if m.Name == v.Name {
					m.ReadOnly = true
				}
			})
		}
		if sub != "" {
			eachMount(pod, func(m *corev1.VolumeMount) {
				if m.Name == v.Name {
					beginAt(m, sub)
				}
			})
		}
		v.VolumeSource = hostPath(hostDir)
	}
}

// beginAt lets a mount show what it shows below a directory of its volume.
func beginAt(m *corev1.VolumeMount, sub string) {
	if m.SubPathExpr != "" {
		m.SubPathExpr = path.Join(strings.ReplaceAll(sub, "$", "$$"), m.SubPathExpr)
		return
	}
	m.SubPath = path.Join(sub, m.SubPath)
}

// propagate lets every mount of a sidecar's directory see the FUSE mount, and
// a later one when the sidecar was restarted. Containers that other webhooks
// added since are treated as well.
func propagate(pod *corev1.Pod, facts Facts) {
	shown := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, facts.MountRoot+"/") && strings.HasSuffix(v.HostPath.Path, "-fuse") {
			shown[v.Name] = true
		}
	}
	eachMount(pod, func(m *corev1.VolumeMount) {
		if shown[m.Name] {
			m.MountPropagation = ptr.To(corev1.MountPropagationHostToContainer)
			// Kubernetes takes it of mounts without propagation only. There is
			// nothing below to write to: the file system itself is read-only.
			m.RecursiveReadOnly = nil
		}
	})
}

// eachMount calls do for the mounts of all containers but the sidecars.
func eachMount(pod *corev1.Pod, do func(*corev1.VolumeMount)) {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if _, own := pod.Labels[contract.LabelSidecarDatasetName+containers[i].Name]; own {
				continue
			}
			for j := range containers[i].VolumeMounts {
				do(&containers[i].VolumeMounts[j])
			}
		}
	}
}

// requireDatasets turns the labels that require a Dataset into node affinity,
// which every scheduler knows.
func requireDatasets(pod *corev1.Pod, facts Facts) {
	for _, name := range claimsOf(pod) {
		claim := facts.Claims[name]
		if claim.Dataset == nil || pod.Labels[contract.DatasetSchedLabel(name)] != contract.SchedRequired {
			continue
		}
		want := corev1.NodeSelectorRequirement{
			Key:      contract.DatasetLabel(claim.served().Namespace, claim.served().Name, string(claim.served().UID)),
			Operator: corev1.NodeSelectorOpIn, Values: []string{labelTrue},
		}
		affinity := nodeAffinity(pod)
		if affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{}
		}
		required := affinity.RequiredDuringSchedulingIgnoredDuringExecution
		theirs := len(required.NodeSelectorTerms) > 0
		if len(required.NodeSelectorTerms) == 0 {
			required.NodeSelectorTerms = []corev1.NodeSelectorTerm{{}}
		}
		// One of the terms must hold: the requirement goes into each.
		for i := range required.NodeSelectorTerms {
			term := &required.NodeSelectorTerms[i]
			if theirs && len(term.MatchExpressions) == 0 && len(term.MatchFields) == 0 {
				continue // An empty term admits no node, and must go on to.
			}
			if !slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return equality.Semantic.DeepEqual(r, want) }) {
				term.MatchExpressions = append(term.MatchExpressions, want)
			}
		}
	}
}

func nodeAffinity(pod *corev1.Pod) *corev1.NodeAffinity {
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	return pod.Spec.Affinity.NodeAffinity
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func hostPath(dir string) corev1.VolumeSource {
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}
}
