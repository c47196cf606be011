// Package index is the scheduler's read model of where the bytes of Datasets
// lie. It answers from memory: filling it is the work of a reflector, asking it
// does no I/O.
package index

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
)

// Locality says where the bytes of one Dataset lie. It never changes after it
// was handed out: news makes a new one.
type Locality struct {
	// TotalBytes of the Dataset; never less than what one node holds.
	TotalBytes int64
	// NodeBytes has an entry for every node with a worker, also if it is 0.
	NodeBytes map[string]int64
	// ZoneBytes sums NodeBytes up by zone; nodes without a zone are left out.
	ZoneBytes map[string]int64
}

// Index maps a Dataset to its Locality. It is the store that a reflector of
// LocalitySlices fills.
type Index struct {
	onChange func(dataset types.NamespacedName)

	mu sync.RWMutex
	// slices by Dataset, then by the slice's own name.
	slices   map[types.NamespacedName]map[string]*cachev1alpha1.LocalitySlice
	locality map[types.NamespacedName]*Locality
}

var _ cache.ReflectorStore = (*Index)(nil)

// New makes an empty index. onChange, if not nil, is called without locks held
// after the Locality of a Dataset changed.
func New(onChange func(dataset types.NamespacedName)) *Index {
	if onChange == nil {
		onChange = func(types.NamespacedName) {}
	}
	return &Index{
		onChange: onChange,
		slices:   map[types.NamespacedName]map[string]*cachev1alpha1.LocalitySlice{},
		locality: map[types.NamespacedName]*Locality{},
	}
}

// Locality is nil when nothing is known of the Dataset.
func (x *Index) Locality(dataset types.NamespacedName) *Locality {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.locality[dataset]
}

// Add takes a slice in.
func (x *Index) Add(obj any) error { return x.Update(obj) }

// Update takes a slice in, in place of an older one of its name.
func (x *Index) Update(obj any) error {
	slice, err := asSlice(obj)
	if err != nil {
		return err
	}
	x.mu.Lock()
	// A slice keeps its name and its Dataset for life: both are immutable in meaning.
	x.put(slice)
	x.sum(datasetOf(slice))
	x.mu.Unlock()
	x.onChange(datasetOf(slice))
	return nil
}

// Delete forgets a slice.
func (x *Index) Delete(obj any) error {
	slice, err := asSlice(obj)
	if err != nil {
		return err
	}
	x.mu.Lock()
	delete(x.slices[datasetOf(slice)], slice.Name)
	x.sum(datasetOf(slice))
	x.mu.Unlock()
	x.onChange(datasetOf(slice))
	return nil
}

// Replace forgets everything and takes in a complete list.
func (x *Index) Replace(objs []any, _ string) error {
	changed := map[types.NamespacedName]bool{}
	x.mu.Lock()
	for dataset := range x.slices {
		changed[dataset] = true
	}
	clear(x.slices)
	for _, obj := range objs {
		slice, err := asSlice(obj)
		if err != nil {
			x.mu.Unlock()
			return err
		}
		x.put(slice)
		changed[datasetOf(slice)] = true
	}
	for dataset := range changed {
		x.sum(dataset)
	}
	x.mu.Unlock()
	for dataset := range changed {
		x.onChange(dataset)
	}
	return nil
}

// Resync has nothing to do: the index holds what the reflector gave it.
func (x *Index) Resync() error { return nil }

func (x *Index) put(slice *cachev1alpha1.LocalitySlice) {
	dataset := datasetOf(slice)
	if x.slices[dataset] == nil {
		x.slices[dataset] = map[string]*cachev1alpha1.LocalitySlice{}
	}
	x.slices[dataset][slice.Name] = slice
}

// sum works the Locality of a Dataset out anew; x.mu is held.
func (x *Index) sum(dataset types.NamespacedName) {
	slices := x.slices[dataset]
	if len(slices) == 0 {
		delete(x.slices, dataset)
		delete(x.locality, dataset)
		return
	}
	out := &Locality{NodeBytes: map[string]int64{}, ZoneBytes: map[string]int64{}}
	for _, slice := range slices {
		out.TotalBytes = max(out.TotalBytes, slice.TotalBytes)
		for _, node := range slice.Nodes {
			out.NodeBytes[node.NodeName] += node.CachedBytes
			out.TotalBytes = max(out.TotalBytes, out.NodeBytes[node.NodeName])
			if node.Zone != "" {
				out.ZoneBytes[node.Zone] += node.CachedBytes
			}
		}
	}
	x.locality[dataset] = out
}

func asSlice(obj any) (*cachev1alpha1.LocalitySlice, error) {
	slice, ok := obj.(*cachev1alpha1.LocalitySlice)
	if !ok {
		return nil, fmt.Errorf("index a LocalitySlice: got %T", obj)
	}
	return slice, nil
}

func datasetOf(slice *cachev1alpha1.LocalitySlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Dataset.Name}
}

// ClaimLister finds a PersistentVolumeClaim in memory.
type ClaimLister func(namespace, name string) (*corev1.PersistentVolumeClaim, error)
