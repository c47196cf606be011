// Package apply writes desired objects by server-side apply and leaves out the
// requests that would change nothing.
package apply

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// ErrForeign tells that an object of the wanted name belongs to somebody else.
var ErrForeign = errors.New("belongs to somebody else")

// Applier applies objects as one field owner. It remembers what it applied, so
// that a round in which that is still there makes no request. What a
// predecessor applied, before a restart, is told by who manages which fields.
type Applier struct {
	client client.Client
	// direct reads past the cache, which holds only what carries our labels and
	// forgets who manages which fields; nil when there is none.
	direct client.Reader
	owner  client.FieldOwner

	mu   sync.Mutex
	done map[types.UID]applied
}

type applied struct {
	resourceVersion string
	desired         [sha256.Size]byte
}

// New makes an Applier with a field owner.
func New(c client.Client, owner string) *Applier {
	return &Applier{client: c, owner: client.FieldOwner(owner), done: map[types.UID]applied{}}
}

// LookingPast has the Applier look past a cache that does not hold everything
// before it makes an object.
func (a *Applier) LookingPast(direct client.Reader) *Applier {
	a.direct = direct
	return a
}

// Apply writes a desired object. mine tells of the live object whether it may
// be written; nil lets every one pass.
func (a *Applier) Apply(ctx context.Context, desired client.Object, mine func(live client.Object) bool) error {
	intent, err := a.intent(desired)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s %s", intent.GetKind(), client.ObjectKeyFromObject(desired))
	digest, err := digestOf(intent)
	if err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	live := desired.DeepCopyObject().(client.Object)
	err = a.client.Get(ctx, client.ObjectKeyFromObject(desired), live)
	if apierrors.IsNotFound(err) && a.direct != nil {
		// It may be somebody else's and therefore not in the cache.
		err = a.direct.Get(ctx, client.ObjectKeyFromObject(desired), live)
	}
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	case mine != nil && !mine(live):
		return fmt.Errorf("%s: %w", name, ErrForeign)
	}
	done, err := a.isDone(ctx, live, intent, digest)
	if err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	if done {
		return nil
	}
	if err := a.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(intent), a.owner, client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[intent.GetUID()] = applied{resourceVersion: intent.GetResourceVersion(), desired: digest}
	return nil
}

// Delete removes an object if mine lets it; an absent one is no error. gone
// tells that it is not there any more.
func (a *Applier) Delete(ctx context.Context, obj client.Object, mine func(live client.Object) bool) (gone bool, err error) {
	key := client.ObjectKeyFromObject(obj)
	if err := a.client.Get(ctx, key, obj); apierrors.IsNotFound(err) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("read %T %s: %w", obj, key, err)
	}
	if mine != nil && !mine(obj) {
		return true, nil
	}
	a.mu.Lock()
	delete(a.done, obj.GetUID())
	a.mu.Unlock()
	if !obj.GetDeletionTimestamp().IsZero() {
		return false, nil
	}
	err = a.client.Delete(ctx, obj, client.Preconditions{UID: ptrTo(obj.GetUID())}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("delete %T %s: %w", obj, key, err)
	}
	return apierrors.IsNotFound(err), nil
}

func ptrTo[T any](v T) *T { return &v }

// isDone tells whether what is wanted was applied before and is still there.
// Others change an object all the time, in its status and in fields that nobody
// here wants: that needs no request.
func (a *Applier) isDone(ctx context.Context, live client.Object, intent *unstructured.Unstructured, digest [sha256.Size]byte) (bool, error) {
	a.mu.Lock()
	last, ok := a.done[live.GetUID()]
	a.mu.Unlock()
	if live.GetUID() == "" || ok && last.desired != digest {
		return false, nil
	}
	if ok && last.resourceVersion == live.GetResourceVersion() {
		return true, nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return false, err
	}
	for field, want := range intent.Object {
		if field != "apiVersion" && field != "kind" && !holds(content[field], want) { // typed objects are read without their kind
			return false, nil
		}
	}
	if !ok {
		if inherited, err := a.isInherited(ctx, live, intent); err != nil || !inherited {
			return false, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[live.GetUID()] = applied{resourceVersion: live.GetResourceVersion(), desired: digest}
	return true, nil
}

// isInherited tells of an object that has all that is wanted whether an Applier
// of the same owner, before a restart, wanted nothing else of it. The cache may
// have forgotten who manages which fields, so they are read past it, once.
func (a *Applier) isInherited(ctx context.Context, live client.Object, intent *unstructured.Unstructured) (bool, error) {
	if a.direct == nil {
		return false, nil
	}
	known := &metav1.PartialObjectMetadata{}
	known.SetGroupVersionKind(intent.GroupVersionKind())
	if err := a.direct.Get(ctx, client.ObjectKeyFromObject(live), known); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if known.UID != live.GetUID() || known.ResourceVersion != live.GetResourceVersion() {
		return false, nil // the cache is behind
	}
	for _, entry := range known.ManagedFields {
		if entry.Manager != string(a.owner) || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" {
			continue
		}
		var fields map[string]any
		if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.Raw, &fields) != nil {
			return false, nil
		}
		return entry.APIVersion == intent.GetAPIVersion() && wants(intent.Object, fields), nil
	}
	return false, nil
}

// wants tells whether every field of a set, in the form of managedFields, is
// wanted. One that it cannot find says no, which costs a request and nothing else.
func wants(want any, fields map[string]any) bool {
	for key, below := range fields {
		if key == "." {
			continue // the map or element itself
		}
		kind, name, _ := strings.Cut(key, ":")
		value, ok := any(nil), false
		switch kind {
		case "f": // a field of a map
			if m, isMap := want.(map[string]any); isMap {
				value, ok = m[name]
			}
		case "k": // the element of a list that has these fields
			var match map[string]any
			list, isList := want.([]any)
			if !isList || json.Unmarshal([]byte(name), &match) != nil {
				return false
			}
			for _, element := range list {
				if hasFields(element, match) {
					value, ok = element, true
				}
			}
		case "v": // an element of a list of values
			var match any
			list, isList := want.([]any)
			if !isList || json.Unmarshal([]byte(name), &match) != nil {
				return false
			}
			ok = slices.ContainsFunc(list, func(element any) bool { return sameValue(element, match) })
		}
		if !ok {
			return false
		}
		if below, deeper := below.(map[string]any); deeper && len(below) > 0 && !wants(value, below) {
			return false
		}
	}
	return true
}

// hasFields tells whether an element of a list has the fields that are its key.
// Some have defaults that nobody writes down, such as a port's protocol.
func hasFields(element any, match map[string]any) bool {
	m, ok := element.(map[string]any)
	if !ok {
		return false
	}
	for field, want := range match {
		if have, there := m[field]; there && !sameValue(have, want) || !there && field != "protocol" {
			return false
		}
	}
	return true
}

// sameValue compares what Go's types give with what JSON gives, where a number
// is a float.
func sameValue(a, b any) bool {
	if n, ok := a.(int64); ok {
		return any(float64(n)) == b
	}
	return reflect.DeepEqual(a, b)
}

// holds tells whether a value has all that is wanted of it. Of lists it wants
// the same length, so it may say no where the API server would see no change:
// that costs a request and nothing else.
func holds(live, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		live, ok := live.(map[string]any)
		if !ok {
			return len(want) == 0 && live == nil
		}
		for key, value := range want {
			if !holds(live[key], value) {
				return false
			}
		}
		return true
	case []any:
		live, ok := live.([]any)
		if !ok || len(live) != len(want) {
			return len(want) == 0 && len(live) == 0
		}
		for i := range want {
			if !holds(live[i], want[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(live, want)
}

// intent turns a typed object into what is wanted of it: no status, nothing
// that only the zero value of a Go type says.
func (a *Applier) intent(desired client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(desired, a.client.Scheme())
	if err != nil {
		return nil, fmt.Errorf("apply %T: %w", desired, err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(desired)
	if err != nil {
		return nil, fmt.Errorf("apply %s %s: %w", gvk.Kind, client.ObjectKeyFromObject(desired), err)
	}
	delete(content, "status")
	prune(content)
	intent := &unstructured.Unstructured{Object: content}
	intent.SetGroupVersionKind(gvk)
	return intent, nil
}

// prune drops nulls and the creation time, which only Go's types write.
func prune(m map[string]any) {
	for key, value := range m {
		switch v := value.(type) {
		case nil:
			delete(m, key)
		case map[string]any:
			if key == "metadata" {
				delete(v, "creationTimestamp")
			}
			prune(v)
		case []any:
			for _, item := range v {
				if item, ok := item.(map[string]any); ok {
					prune(item)
				}
			}
		}
	}
}

func digestOf(intent *unstructured.Unstructured) ([sha256.Size]byte, error) {
	text, err := json.Marshal(intent.Object)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(text), nil
}
