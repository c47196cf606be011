package operation

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// The strategies of an affinity.
const (
	strategyRequire datav1alpha1.AffinityStrategy = "Require"
	strategyPrefer  datav1alpha1.AffinityStrategy = "Prefer"
)

const preferWeight = 100

// placeKeys are the labels of a node that its place is told by.
var placeKeys = []string{corev1.LabelHostname, corev1.LabelTopologyRegion, corev1.LabelTopologyZone}

// awaitPreceding waits for the operation of spec.runAfter. Once it was complete
// it is not asked about again: it may be deleted.
func (r *Reconciler) awaitPreceding(ctx context.Context, s *Round) (flow.Outcome, error) {
	if s.RunAfter == nil || s.Status.WaitingFor.OperationComplete != nil && !*s.Status.WaitingFor.OperationComplete {
		return flow.Continue(), nil
	}
	preceding, found, err := r.read(ctx, s.Object.GetNamespace(), s.RunAfter.ObjectRef)
	if err != nil {
		return flow.Wait(), err
	}
	name := described(s.Object.GetNamespace(), s.RunAfter.ObjectRef)
	s.Status.WaitingFor.OperationComplete = ptr.To(true)
	switch {
	case !found:
		s.wait(contract.EventDataOperationNotFound, name+" of spec.runAfter does not exist: this one starts when it is created and complete")
	case preceding.complete():
		s.Status.WaitingFor.OperationComplete = ptr.To(false)
		return flow.Continue(), nil
	case preceding.Status.Phase == datav1alpha1.PhaseFailed:
		s.wait(contract.EventDataOperationWaiting, fmt.Sprintf("%s of spec.runAfter failed (%s): this one starts when it is complete; delete it and create it again",
			name, failureOf(preceding.Status)))
	default:
		s.wait(contract.EventDataOperationWaiting, fmt.Sprintf("%s of spec.runAfter is not complete (phase %q): this one starts when it is", name, preceding.Status.Phase))
	}
	return flow.Wait(), nil
}

func failureOf(st *datav1alpha1.OperationStatus) string {
	if c := meta.FindStatusCondition(st.Conditions, datav1alpha1.OperationFailed); c != nil {
		return c.Message
	}
	return "nothing more is said of it"
}

// read reads the operation that a reference names.
func (r *Reconciler) read(ctx context.Context, namespace string, ref datav1alpha1.ObjectRef) (Facts, bool, error) {
	if ref.Namespace != "" {
		namespace = ref.Namespace
	}
	for _, k := range kinds {
		if k.name != ref.Kind {
			continue
		}
		if !r.installed[k.name] {
			return Facts{}, false, nil
		}
		obj := k.one()
		err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, obj)
		if apierrors.IsNotFound(err) {
			return Facts{}, false, nil
		}
		if err != nil {
			return Facts{}, false, fmt.Errorf("read %s %s/%s: %w", ref.Kind, namespace, ref.Name, err)
		}
		f, _ := FactsOf(obj)
		return f, true, nil
	}
	return Facts{}, false, nil
}

func described(namespace string, ref datav1alpha1.ObjectRef) string {
	if ref.Namespace != "" {
		namespace = ref.Namespace
	}
	return fmt.Sprintf("%s %s/%s", ref.Kind, namespace, ref.Name)
}

// placeOf is where a pod ran, as those that run after it ask for it.
func (r *Reconciler) placeOf(ctx context.Context, nodeName string) (*corev1.NodeAffinity, error) {
	if nodeName == "" {
		return nil, nil
	}
	node := &corev1.Node{}
	if err := r.Get(ctx, client.ObjectKey{Name: nodeName}, node); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read node %s: %w", nodeName, err)
	}
	term := corev1.NodeSelectorTerm{}
	for _, key := range placeKeys {
		if value := node.Labels[key]; value != "" {
			term.MatchExpressions = append(term.MatchExpressions, in(key, value))
		}
	}
	if len(term.MatchExpressions) == 0 {
		return nil, nil
	}
	return &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}, nil
}

// besidePreceding is the affinity that spec.runAfter asks for; nil if it asks for
// none. problem says why it cannot be had.
func (r *Reconciler) besidePreceding(ctx context.Context, s *Round) (affinity *corev1.NodeAffinity, problem string, err error) {
	if s.RunAfter == nil || s.RunAfter.AffinityStrategy.Policy == "" {
		return nil, "", nil
	}
	strategy, ref := s.RunAfter.AffinityStrategy, s.RunAfter.ObjectRef
	if strategy.DependOn != nil {
		ref = *strategy.DependOn
	}
	preceding, found, err := r.read(ctx, s.Object.GetNamespace(), ref)
	if err != nil {
		return nil, "", err
	}
	name := described(s.Object.GetNamespace(), ref)
	place := map[string]string{}
	if found && preceding.Status.NodeAffinity != nil {
		if place, err = r.labelsOf(ctx, preceding.Status.NodeAffinity); err != nil {
			return nil, "", err
		}
	}
	if strategy.Policy == strategyPrefer {
		return preferred(strategy.Prefers, place), "", nil
	}
	keys := strategy.Requires
	if len(keys) == 0 {
		keys = []datav1alpha1.RequireTerm{{Name: corev1.LabelHostname}}
	}
	term := corev1.NodeSelectorTerm{}
	for _, key := range keys {
		value, ok := place[key.Name]
		if !ok {
			return nil, fmt.Sprintf("spec.runAfter.affinityStrategy requires the node label %s of where %s ran, which is not known: it starts when that is, or without policy Require", key.Name, name), nil
		}
		term.MatchExpressions = append(term.MatchExpressions, in(key.Name, value))
	}
	return &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}, "", nil
}

// preferred are the terms of policy Prefer; a label that is not known is left out.
func preferred(keys []datav1alpha1.PreferTerm, place map[string]string) *corev1.NodeAffinity {
	if len(keys) == 0 {
		keys = []datav1alpha1.PreferTerm{{Name: corev1.LabelHostname, Weight: preferWeight}}
	}
	out := &corev1.NodeAffinity{}
	for _, key := range keys {
		if value, ok := place[key.Name]; ok {
			out.PreferredDuringSchedulingIgnoredDuringExecution = append(out.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{
				Weight:     min(max(key.Weight, 1), preferWeight),
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{in(key.Name, value)}},
			})
		}
	}
	if len(out.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	return out
}

// labelsOf are the labels of a place: those that were written down, over those
// of the node while that exists.
func (r *Reconciler) labelsOf(ctx context.Context, place *corev1.NodeAffinity) (map[string]string, error) {
	out := map[string]string{}
	required := place.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return out, nil
	}
	known := map[string]string{}
	for _, term := range required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
				known[e.Key] = e.Values[0]
			}
		}
	}
	if hostname := known[corev1.LabelHostname]; hostname != "" {
		nodes := &corev1.NodeList{}
		if err := r.List(ctx, nodes, client.MatchingLabels{corev1.LabelHostname: hostname}); err != nil {
			return nil, fmt.Errorf("list nodes of hostname %s: %w", hostname, err)
		}
		for _, node := range nodes.Items {
			for key, value := range node.Labels {
				out[key] = value
			}
		}
	}
	for key, value := range known {
		out[key] = value
	}
	return out, nil
}

func in(key, value string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}
}

// withPlace adds a place to the affinity of a pod: what is required is required
// of each of its alternatives.
func withPlace(affinity *corev1.Affinity, place *corev1.NodeAffinity) *corev1.Affinity {
	if place == nil {
		return affinity
	}
	out := affinity.DeepCopy()
	if out == nil {
		out = &corev1.Affinity{}
	}
	if out.NodeAffinity == nil {
		out.NodeAffinity = &corev1.NodeAffinity{}
	}
	node := out.NodeAffinity
	node.PreferredDuringSchedulingIgnoredDuringExecution = append(node.PreferredDuringSchedulingIgnoredDuringExecution, place.PreferredDuringSchedulingIgnoredDuringExecution...)
	switch required := place.RequiredDuringSchedulingIgnoredDuringExecution; {
	case required == nil:
	case node.RequiredDuringSchedulingIgnoredDuringExecution == nil || len(node.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) == 0:
		node.RequiredDuringSchedulingIgnoredDuringExecution = required
	default:
		terms := node.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		for i := range terms {
			terms[i].MatchExpressions = slices.Concat(terms[i].MatchExpressions, required.NodeSelectorTerms[0].MatchExpressions)
		}
	}
	return out
}
