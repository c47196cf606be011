package podinject

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Facts are what a mutation depends on apart from the pod.
type Facts struct {
	// MountRoot is the host directory below which FUSE is mounted.
	MountRoot string
	// Suffix makes the host directories of this pod's sidecars its own.
	Suffix string
	// Claims tells of each claim of the pod that is a Dataset's, or may be.
	Claims map[string]Claim
}

// Claim is what is known of a claim that a pod mounts.
type Claim struct {
	// Dataset that the claim belongs to; nil when there is none of its name.
	Dataset *datav1alpha1.Dataset
	// Source is the Dataset that it refers to, and Sub the directory of that one
	// that it shows; nil if it refers to none.
	Source *datav1alpha1.Dataset
	Sub    string
	// Exists tells whether there is a PersistentVolumeClaim. A claim that
	// exists and is no Dataset's is not among the facts.
	Exists bool
	// Type of the runtime, once Client is known.
	Type contract.RuntimeType
	// Client is the template of the Dataset's FUSE pods; nil before it is made.
	Client *corev1.PodTemplateSpec
	// Slices say where the Dataset's bytes lie.
	Slices []cachev1alpha1.LocalitySlice
}

// served is the Dataset whose cache serves the claim.
func (c Claim) served() *datav1alpha1.Dataset {
	if c.Source != nil {
		return c.Source
	}
	return c.Dataset
}

// gather reads the facts about the claims of a pod.
func gather(ctx context.Context, c client.Reader, pod *corev1.Pod, namespace string) (map[string]Claim, error) {
	out := map[string]Claim{}
	for _, volume := range pod.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		name := volume.PersistentVolumeClaim.ClaimName
		if _, seen := out[name]; seen {
			continue
		}
		claim, relevant, err := look(ctx, c, types.NamespacedName{Namespace: namespace, Name: name})
		if err != nil {
			return nil, err
		}
		if relevant {
			out[name] = claim
		}
	}
	return out, nil
}

// look reads the facts about one claim. A Dataset's claim has its name.
func look(ctx context.Context, c client.Reader, key types.NamespacedName) (claim Claim, relevant bool, err error) {
	pvc := &corev1.PersistentVolumeClaim{}
	switch err := c.Get(ctx, key, pvc); {
	case err == nil && pvc.Labels[contract.LabelDatasetID] == "":
		return Claim{}, false, nil
	case err == nil:
		claim.Exists = true
	case !apierrors.IsNotFound(err):
		return Claim{}, false, fmt.Errorf("read claim %s: %w", key, err)
	}
	ds := &datav1alpha1.Dataset{}
	if err := c.Get(ctx, key, ds); apierrors.IsNotFound(err) {
		return claim, true, nil
	} else if err != nil {
		return Claim{}, false, fmt.Errorf("read dataset %s: %w", key, err)
	}
	claim.Dataset = ds
	if len(ds.Spec.Mounts) == 1 {
		if to, refers := contract.ParseReference(ds.Spec.Mounts[0].MountPoint); refers {
			key, claim.Source, claim.Sub = types.NamespacedName{Namespace: to.Namespace, Name: to.Name}, &datav1alpha1.Dataset{}, to.Sub
			// Without it this one is not bound either, and the pod is turned away.
			if err := c.Get(ctx, key, claim.Source); client.IgnoreNotFound(err) != nil {
				return Claim{}, false, fmt.Errorf("read dataset %s: %w", key, err)
			}
		}
	}
	for _, t := range []contract.RuntimeType{contract.RuntimeCache, contract.RuntimeAlluxio} {
		set := &appsv1.DaemonSet{}
		err := c.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: contract.ClientName(t, key.Name)}, set)
		if client.IgnoreNotFound(err) != nil {
			return Claim{}, false, fmt.Errorf("read FUSE pods of dataset %s: %w", key, err)
		}
		if err == nil && set.Labels[contract.LabelCacheRuntime] == key.Name {
			claim.Type, claim.Client = t, &set.Spec.Template
			break
		}
	}
	list := &cachev1alpha1.LocalitySliceList{}
	if err := c.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{cachev1alpha1.LabelDataset: key.Name}); err != nil {
		return Claim{}, false, fmt.Errorf("list locality slices of dataset %s: %w", key, err)
	}
	claim.Slices = list.Items
	return claim, true, nil
}

// reads are the kinds that gather reads.
func (h *handler) reads() []client.Object {
	return []client.Object{
		&corev1.PersistentVolumeClaim{}, &appsv1.DaemonSet{}, &datav1alpha1.Dataset{}, &cachev1alpha1.LocalitySlice{},
	}
}
