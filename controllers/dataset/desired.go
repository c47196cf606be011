package dataset

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// storageSize is what PV and PVC ask for; an annotation that is no size is told
// of and asks for nothing else.
func storageSize(ds *datav1alpha1.Dataset) resource.Quantity {
	if asked := ds.Annotations[contract.AnnotationStorageRequest]; isSize(asked) {
		return resource.MustParse(asked)
	}
	return resource.MustParse(contract.DefaultStorageRequest)
}

// isSize tells whether a text is a size that a volume can have.
func isSize(text string) bool {
	q, err := resource.ParseQuantity(text)
	return err == nil && q.Sign() > 0
}

func accessModes(ds *datav1alpha1.Dataset) []corev1.PersistentVolumeAccessMode {
	if len(ds.Spec.AccessModes) == 0 {
		return []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	}
	return ds.Spec.AccessModes
}

// volumeMeta is common to PV and PVC.
func volumeMeta(ds *datav1alpha1.Dataset, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels: map[string]string{
			contract.DatasetLabel(ds.Namespace, ds.Name, string(ds.UID)): "true",
			contract.LabelDatasetID: contract.DatasetID(ds.Namespace, ds.Name, string(ds.UID)),
		},
		Annotations: map[string]string{contract.AnnotationCreatedBy: contract.AnnotationCreatedByValue},
	}
}

// newPV is a volume for the Dataset's claim, but for where it leads.
func newPV(ds *datav1alpha1.Dataset, name string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: volumeMeta(ds, "", name),
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   accessModes(ds),
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: storageSize(ds)},
			StorageClassName:              contract.StorageClass,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ds.Namespace, Name: ds.Name},
		},
	}
}

// desiredPV is the volume that the CSI plugin serves, of a type of file system.
func desiredPV(ds *datav1alpha1.Dataset, name, mountRoot string, t contract.RuntimeType, fileSystem string) *corev1.PersistentVolume {
	pv := newPV(ds, name)
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{
		Driver: contract.CSIDriver, VolumeHandle: name,
		VolumeAttributes: map[string]string{
			contract.AttrFluidPath:        contract.FuseMountPath(mountRoot, t, ds.Namespace, ds.Name),
			contract.AttrMountType:        fileSystem,
			contract.AttrRuntimeNamespace: ds.Namespace,
			contract.AttrRuntimeName:      ds.Name,
			contract.AttrFuseNodeLabel:    contract.FuseNodeLabel(ds.Namespace, ds.Name, string(ds.UID)),
		},
	}
	return pv
}

// desiredPVC is the claim that pods name; its volume is preset.
func desiredPVC(ds *datav1alpha1.Dataset, volume string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: volumeMeta(ds, ds.Namespace, ds.Name),
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      accessModes(ds),
			StorageClassName: ptr.To(contract.StorageClass),
			VolumeName:       volume,
			VolumeMode:       ptr.To(corev1.PersistentVolumeFilesystem),
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: storageSize(ds)}},
		},
	}
}
