// Package cachelocality sends pods to the nodes that hold their bytes.
//
// Score is the part of a pod's Datasets that a node would read without the
// source: the bytes on the node itself, and, at a discount, those that others
// in its zone hold. It is arithmetic on the index, without I/O.
package cachelocality

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	configv1alpha1 "github.com/millrace/millrace/apis/config/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/scheduler/index"
)

// Name is the plugin's name in scheduler configurations.
const Name = "CacheLocality"

const stateKey fwk.StateKey = Name

// Plugin is CacheLocality.
type Plugin struct {
	handle framework.Handle
	index  *index.Index
	claim  index.ClaimLister
	args   configv1alpha1.CacheLocalityArgs

	mu sync.Mutex
	// waiting holds pods that require a Dataset, until its bytes move.
	waiting map[types.NamespacedName]map[string]*corev1.Pod
}

var (
	_ framework.PreFilterPlugin   = (*Plugin)(nil)
	_ framework.EnqueueExtensions = (*Plugin)(nil)
	_ framework.PreScorePlugin    = (*Plugin)(nil)
	_ framework.ScorePlugin       = (*Plugin)(nil)
)

// New is the plugin's factory. Its reflector ends with ctx.
func New(ctx context.Context, obj runtime.Object, handle framework.Handle) (framework.Plugin, error) {
	args, err := decodeArgs(obj)
	if err != nil {
		return nil, err
	}
	claims := handle.SharedInformerFactory().Core().V1().PersistentVolumeClaims().Lister()
	p := &Plugin{
		handle:  handle,
		args:    args,
		waiting: map[types.NamespacedName]map[string]*corev1.Pod{},
		claim: func(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
			return claims.PersistentVolumeClaims(namespace).Get(name)
		},
	}
	logger := klog.LoggerWithName(klog.FromContext(ctx), Name)
	p.index = index.New(func(dataset types.NamespacedName) { p.wake(logger, dataset) })
	if err := p.index.Reflect(klog.NewContext(ctx, logger), handle.KubeConfig()); err != nil {
		return nil, err
	}
	return p, nil
}

func decodeArgs(obj runtime.Object) (configv1alpha1.CacheLocalityArgs, error) {
	args := configv1alpha1.CacheLocalityArgs{ZoneWeightPercent: configv1alpha1.DefaultZoneWeightPercent}
	if raw, ok := obj.(*runtime.Unknown); ok && raw != nil && len(raw.Raw) > 0 {
		// The scheduler has turned YAML into JSON by now.
		strict := json.NewDecoder(bytes.NewReader(raw.Raw))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&args); err != nil {
			return args, fmt.Errorf("decode args of plugin %s: %w", Name, err)
		}
	}
	if w := args.ZoneWeightPercent; w < 0 || w > 100 {
		return args, fmt.Errorf("args of plugin %s: zoneWeightPercent must be 0 to 100, got %d", Name, w)
	}
	return args, nil
}

// Name of the plugin.
func (p *Plugin) Name() string { return Name }

// PreFilter narrows a pod that requires Datasets down to the nodes with a
// worker of each of them.
func (p *Plugin) PreFilter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*framework.PreFilterResult, *fwk.Status) {
	required := index.RequiredBy(pod, p.claim)
	if len(required) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	// Registered before the index is read: news in between wakes the pod.
	p.await(pod, required)
	var nodes sets.Set[string]
	for _, dataset := range required {
		held := sets.New[string]()
		if locality := p.index.Locality(dataset); locality != nil {
			held = sets.KeySet(locality.NodeBytes)
		}
		if held.Len() == 0 {
			return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf("no node has a cache worker of Dataset %s, which a label %s requires", dataset, contract.DatasetSchedLabel("<dataset>")))
		}
		if nodes == nil {
			nodes = held
		} else {
			nodes = nodes.Intersection(held)
		}
	}
	if nodes.Len() == 0 {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "no node has cache workers of all the Datasets that the pod's labels require")
	}
	return &framework.PreFilterResult{NodeNames: nodes}, nil
}

// PreFilterExtensions is nil: other pods do not move bytes.
func (p *Plugin) PreFilterExtensions() framework.PreFilterExtensions { return nil }

// EventsToRegister names what can help a pod that PreFilter turned away, apart
// from new bytes. Those come through the index: an event on LocalitySlices
// would keep the whole scheduler from starting where the kind does not exist.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add}},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.UpdatePodLabel}},
	}, nil
}

// await remembers a pod until the bytes of one of the Datasets move.
func (p *Plugin) await(pod *corev1.Pod, datasets []types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dataset := range datasets {
		if p.waiting[dataset] == nil {
			p.waiting[dataset] = map[string]*corev1.Pod{}
		}
		p.waiting[dataset][pod.Namespace+"/"+pod.Name] = pod
	}
}

// wake gives pods that wait for the Dataset another try. Those that were
// scheduled or deleted meanwhile are no longer in the queue, which passes over them.
func (p *Plugin) wake(logger klog.Logger, dataset types.NamespacedName) {
	p.mu.Lock()
	pods := p.waiting[dataset]
	delete(p.waiting, dataset)
	p.mu.Unlock()
	if len(pods) > 0 {
		p.handle.Activate(logger, pods)
	}
}

// scoreState is what PreScore found for the pod of this cycle.
type scoreState struct{ localities []*index.Locality }

// Clone shares the localities: they never change.
func (s *scoreState) Clone() fwk.StateData { return s }

// PreScore skips the pods that read no Dataset of which anything is known.
func (p *Plugin) PreScore(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	s := &scoreState{}
	for _, dataset := range index.DatasetsOf(pod, p.claim) {
		if locality := p.index.Locality(dataset); locality != nil && locality.TotalBytes > 0 {
			s.localities = append(s.localities, locality)
		}
	}
	if len(s.localities) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	state.Write(stateKey, s)
	return nil
}

var errNoState = errors.New("score a node before PreScore has run")

// Score is 0 to 100: the part of the pod's Datasets that the node holds.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(stateKey)
	if err != nil {
		return 0, fwk.AsStatus(errors.Join(errNoState, err))
	}
	n := node.Node()
	return score(data.(*scoreState).localities, n.Name, n.Labels[corev1.LabelTopologyZone], p.args.ZoneWeightPercent), nil
}

// ScoreExtensions is nil: a score is absolute, so that a pod whose Dataset is
// hardly cached anywhere is placed by the other plugins.
func (p *Plugin) ScoreExtensions() framework.ScoreExtensions { return nil }

// score is 100 × (bytes on the node + weight × bytes that only others in its
// zone hold) ÷ total. It uses floats since bytes × percent may pass an int64.
func score(localities []*index.Locality, node, zone string, zoneWeightPercent int32) int64 {
	var near, total float64
	for _, l := range localities {
		own := l.NodeBytes[node]
		// Replicas may let a zone hold more than there is; no more than the rest helps.
		others := max(0, min(l.ZoneBytes[zone]-own, l.TotalBytes-own))
		if zone == "" {
			others = 0
		}
		near += float64(own) + float64(others)*float64(zoneWeightPercent)/100
		total += float64(l.TotalBytes)
	}
	return int64(near / total * float64(framework.MaxNodeScore))
}
