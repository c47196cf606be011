package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/apply"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// secretPause is how long a missing Secret is left alone. Secrets are not
// watched: that would need the right to read every Secret of the cluster at once.
const secretPause = 3 * time.Second

// describe finds the Dataset and turns both into a Description.
func (r *Reconciler) describe(ctx context.Context, s *round) (flow.Outcome, error) {
	runtimes, err := RuntimesOf(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	if len(runtimes) > 0 && runtimes[0].Type != r.kind.Type() {
		return r.stopAt(s, &Problem{ReasonConflict, fmt.Sprintf(
			"Dataset %s is bound to its older runtime of type %s: delete one of the two runtimes", s.key.Name, runtimes[0].Type)})
	}
	ds := &datav1alpha1.Dataset{}
	if err := r.Get(ctx, s.key, ds); apierrors.IsNotFound(err) {
		return r.stopAt(s, &Problem{ReasonDatasetNotFound, fmt.Sprintf(
			"there is no Dataset %s in namespace %s: create a Dataset with the runtime's name", s.key.Name, s.key.Namespace)})
	} else if err != nil {
		return flow.Wait(), fmt.Errorf("read dataset %s: %w", s.key, err)
	}
	s.dataset = ds
	if to, is := ReferenceOf(ds); is {
		return r.stopAt(s, &Problem{ReasonConflict, fmt.Sprintf(
			"Dataset %s refers to Dataset %s of namespace %s and is served by the runtime of that one: delete this runtime, or give the Dataset a source of its own", s.key.Name, to.Name, to.Namespace)})
	}
	desc, err := r.kind.Describe(ctx, s.runtime)
	var problem *Problem
	if errors.As(err, &problem) {
		return r.stopAt(s, problem)
	} else if err != nil {
		return flow.Wait(), err
	}
	s.desc = desc
	r.complete(s)
	if problem := desc.validate(); problem != nil {
		return r.stopAt(s, problem)
	}
	return flow.Continue(), nil
}

// complete fills in what comes from the objects themselves and the Dataset.
func (r *Reconciler) complete(s *round) {
	d, ds := s.desc, s.dataset
	gvk := datav1alpha1.GroupVersion.WithKind(kindName(s.runtime))
	d.Type, d.Namespace, d.Name, d.UID = r.kind.Type(), s.key.Namespace, s.key.Name, s.runtime.GetUID()
	d.APIVersion, d.Kind = gvk.GroupVersion().String(), gvk.Kind
	d.DatasetUID, d.DatasetGeneration = ds.UID, ds.Generation
	d.MountRoot, d.Egress = r.options.MountRoot, r.options.Egress
	d.Sources = SourcesOf(ds)
	d.Sources.underlay(d.SourceOptions)
	d.Sources.UseHadoopConfig(d.HadoopConfig)
	d.Exclusive = ds.Spec.PlacementMode != datav1alpha1.ShareMode
	d.WorkerTolerations = ds.Spec.Tolerations
	if ttl := lookInterval(ds.Spec.MetadataSyncPolicy); ttl != "" && d.Foreign != nil {
		d.NotServed = append(d.NotServed, "spec.metadataSyncPolicy of the Dataset (the engine looks at its sources by itself)")
	} else if ttl != "" {
		d.Worker.Options = merged(d.Worker.Options, map[string]string{contract.OptionMetadataTTL: ttl})
	}
	if ds.Spec.NodeAffinity != nil {
		d.WorkerNodes = ds.Spec.NodeAffinity.Required
	}
}

// never is how long a source that is only looked at on request is left alone.
const never = 10 * 365 * 24 * time.Hour

// lookInterval is option metadata.ttl as a Dataset wants it; "" if it does not say.
func lookInterval(p *datav1alpha1.DatasetSyncPolicy) string {
	switch {
	case p == nil:
		return ""
	case p.AutoSync != nil && !*p.AutoSync:
		return never.String()
	default:
		return p.Interval
	}
}

func kindName(runtime client.Object) string {
	if _, ok := runtime.(*datav1alpha1.AlluxioRuntime); ok {
		return "AlluxioRuntime"
	}
	return "CacheRuntime"
}

// stopAt tells a problem that only another object or a changed spec can solve.
func (r *Reconciler) stopAt(s *round, p *Problem) (flow.Outcome, error) {
	r.notReady(s, p)
	return flow.Wait(), nil
}

func (r *Reconciler) notReady(s *round, p *Problem) {
	if conditions.False(s.conditions(), s.runtime.GetGeneration(), datav1alpha1.RuntimeReady, p.Reason, p.Message) {
		switch p.Reason {
		case ReasonMasterNotReady, ReasonWorkersNotReady, ReasonDatasetNotFound:
		default:
			r.events.Event(s.runtime, corev1.EventTypeWarning, contract.EventErrorProcessRuntime, p.Message)
		}
	}
}

// checkSources looks for the secrets, claims and ConfigMaps of the sources, so that no pod
// ever hangs for one that does not exist.
func (r *Reconciler) checkSources(ctx context.Context, s *round) (flow.Outcome, error) {
	for _, claim := range s.desc.Sources.Claims {
		err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: claim}, &corev1.PersistentVolumeClaim{})
		if apierrors.IsNotFound(err) {
			s.problem = &Problem{ReasonClaimNotFound, fmt.Sprintf(
				"mount %s%s: PersistentVolumeClaim %s does not exist in namespace %s: create it, or correct the mount", contract.SchemePVC, claim, claim, s.key.Namespace)}
			return flow.Continue(), nil
		} else if err != nil {
			return flow.Wait(), fmt.Errorf("read claim %s: %w", claim, err)
		}
	}
	settled, err := r.settled(ctx, s)
	if err != nil || settled {
		return flow.Continue(), err
	}
	for _, name := range s.desc.Sources.HadoopConfigs {
		// Only the ConfigMaps of runtimes are watched.
		err := r.live.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, &corev1.ConfigMap{})
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			s.problem = &Problem{ReasonConfigMap, fmt.Sprintf(
				"%s: ConfigMap %q does not exist in namespace %s: create it from core-site.xml and hdfs-site.xml", contract.OptionHadoopConfig, name, s.key.Namespace)}
			return flow.CheckBack(secretPause), nil
		} else if err != nil {
			return flow.Wait(), fmt.Errorf("read ConfigMap %s: %w", name, err)
		}
	}
	for _, name := range s.desc.Sources.SecretNames() {
		secret := &corev1.Secret{}
		err := r.live.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, secret)
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || name == "" {
			s.problem = &Problem{ReasonSecretNotFound, fmt.Sprintf(
				"encryptOptions: Secret %q does not exist in namespace %s: create it with the keys %s", name, s.key.Namespace, strings.Join(s.desc.Sources.Secrets[name], ", "))}
			return flow.CheckBack(secretPause), nil
		} else if err != nil {
			return flow.Wait(), fmt.Errorf("read secret %s: %w", name, err)
		}
		for _, key := range s.desc.Sources.Secrets[name] {
			if _, ok := secret.Data[key]; !ok {
				s.problem = &Problem{ReasonSecretKey, fmt.Sprintf(
					"encryptOptions: Secret %s in namespace %s has no key %q: add it, or correct the Dataset", name, s.key.Namespace, key)}
				return flow.CheckBack(secretPause), nil
			}
		}
	}
	return flow.Continue(), nil
}

// settled tells whether the pods run already with the secrets that are wanted,
// so that there is no reason to read them again.
func (r *Reconciler) settled(ctx context.Context, s *round) (bool, error) {
	ready := meta.FindStatusCondition(*s.conditions(), datav1alpha1.RuntimeReady)
	if ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != s.runtime.GetGeneration() {
		return false, nil
	}
	master := &appsv1.StatefulSet{}
	err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: contract.MasterName(s.key.Name)}, master)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return master.Annotations[AnnotationDatasetGeneration] == strconv.FormatInt(s.dataset.Generation, 10), nil
}

// applyObjects makes the pods what they should be, unless a problem says that
// they would not start.
func (r *Reconciler) applyObjects(ctx context.Context, s *round) (flow.Outcome, error) {
	if s.problem != nil {
		return flow.Continue(), nil
	}
	objects, err := s.desc.Objects()
	if err != nil {
		return flow.Wait(), err
	}
	var left client.Object
	mine := func(live client.Object) bool {
		if r.leftByFluid(s, live) {
			left = live
			return false
		}
		return metav1.IsControlledBy(live, s.runtime)
	}
	for _, obj := range objects {
		if waits, err := r.waitsItsTurn(ctx, s, obj); err != nil {
			return flow.Wait(), err
		} else if waits {
			continue
		}
		err := r.applier.Apply(ctx, obj, mine)
		if errors.Is(err, apply.ErrForeign) && left != nil {
			return r.makeRoom(ctx, s, left)
		} else if errors.Is(err, apply.ErrForeign) {
			s.problem = &Problem{ReasonForeign, fmt.Sprintf("%s: delete or rename it, or choose another name for the Dataset", err)}
			return flow.Continue(), nil
		} else if err != nil {
			return flow.Wait(), err
		}
	}
	return flow.Continue(), r.dropAbsent(ctx, s)
}

// lostTime is how long a master's pod may outlive its own end before it is
// taken for lost with its node.
const lostTime = 5 * time.Second

// replaceLostMaster lets a master start elsewhere when the node of the old one
// is cut off: its StatefulSet would wait for that node for ever, to be sure that
// there are never two. Masters keep nothing that two of them could spoil.
func (r *Reconciler) replaceLostMaster(ctx context.Context, s *round) (flow.Outcome, error) {
	pod := &corev1.Pod{}
	if err := r.Get(ctx, masterPodKey(s.key), pod); err != nil {
		return flow.Continue(), client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp.IsZero() || pod.Labels[contract.LabelCacheRuntime] != s.key.Name || isForeign(pod) {
		return flow.Continue(), nil
	}
	if left := time.Until(pod.DeletionTimestamp.Add(lostTime)); left > 0 {
		return flow.CheckBack(left), nil
	}
	uid := pod.UID
	if err := r.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
		return flow.Wait(), fmt.Errorf("give up lost master pod %s: %w", pod.Name, err)
	}
	return flow.Continue(), nil
}

// observe looks at the pods and keeps the master's summary in sight.
func (r *Reconciler) observe(ctx context.Context, s *round) (flow.Outcome, error) {
	master, worker, fuse := &appsv1.StatefulSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}
	for component, obj := range map[contract.ComponentType]client.Object{
		contract.ComponentMaster: master, contract.ComponentWorker: worker, contract.ComponentClient: fuse,
	} {
		err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: s.desc.objectName(component)}, obj)
		if client.IgnoreNotFound(err) != nil {
			return flow.Wait(), fmt.Errorf("read %s of %s: %w", component, s.key, err)
		}
	}
	pod, err := r.masterPod(ctx, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	if pod != nil && master.Status.ReadyReplicas > 0 && !s.desc.mute() {
		r.observer.Watch(s.key, r.engineAddress(s.desc, pod))
	}
	s.seen = Seen{
		Master: seenStatefulSet(master, s.desc.Master.Replicas),
		Worker: seenStatefulSet(worker, s.desc.Worker.Replicas),
		Client: seenDaemonSet(fuse), Selector: selectorText(s.desc.selector(contract.ComponentWorker)),
		Mounts: s.dataset.Spec.Mounts, Age: time.Since(s.runtime.GetCreationTimestamp().Time),
	}
	s.seen.Summary, _, s.seen.Heard = r.observer.Latest(s.key)
	s.seen.Absent = map[contract.ComponentType]bool{}
	for _, c := range components {
		s.seen.Absent[c] = !s.desc.has(c)
	}
	s.seen.Mute = s.desc.mute()
	s.seen.Serving = (s.seen.Master.Ready > 0 || s.seen.Master.Desired == 0) && (s.seen.Worker.Ready > 0 || s.seen.Worker.Desired == 0)
	if !s.seen.Serving || s.seen.Worker.Ready < s.seen.Worker.Desired {
		s.trouble, err = troubledPod(ctx, r.Client, s.key)
		s.trouble = cmp.Or(s.trouble, missing(contract.MasterName(s.key.Name), s.seen.Master), missing(contract.WorkerName(s.key.Name), s.seen.Worker))
	}
	return flow.Continue(), err
}

// report tells what was seen in conditions and the kind's own status.
func (r *Reconciler) report(_ context.Context, s *round) (flow.Outcome, error) {
	list, generation := s.conditions(), s.runtime.GetGeneration()
	conditions.DropForeign(list)
	was := meta.IsStatusConditionTrue(*list, datav1alpha1.RuntimeReady)
	if p := s.waitingFor(); p != nil {
		if was {
			r.metrics.healthLost(r.kind.Type(), s.key)
		}
		r.notReady(s, p)
	} else if conditions.True(list, generation, datav1alpha1.RuntimeReady, ReasonReady, s.serves()) {
		r.events.Event(s.runtime, corev1.EventTypeNormal, contract.EventSucceed, "the cache serves")
	}
	fields := r.kind.NotServed(s.runtime)
	if s.desc != nil {
		fields = append(fields, s.desc.NotServed...)
	}
	if len(fields) > 0 {
		conditions.True(list, generation, datav1alpha1.RuntimeNotSupported, ReasonFieldsNotServed,
			"these fields have no meaning for the engine and do nothing: "+strings.Join(slices.Sorted(slices.Values(fields)), ", "))
	} else {
		meta.RemoveStatusCondition(list, datav1alpha1.RuntimeNotSupported)
	}
	if s.seen.Heard {
		if message := engineMessages(&s.seen.Summary); message != "" {
			if conditions.False(list, generation, datav1alpha1.RuntimeCaching, ReasonWorkerLimited, message) {
				r.events.Event(s.runtime, corev1.EventTypeWarning, contract.EventErrorProcessRuntime, message)
			}
		} else {
			conditions.True(list, generation, datav1alpha1.RuntimeCaching, ReasonReady, "workers cache within their quotas")
		}
	}
	r.kind.Report(s.runtime, &s.seen)
	return flow.Continue(), nil
}

// serves says what a ready runtime has.
func (s *round) serves() string {
	if s.desc.Worker.Absent {
		return fmt.Sprintf("the engine has no workers: its FUSE pods start where a pod reads%s", s.seeAlso(""))
	}
	return fmt.Sprintf("%d of %d workers are ready%s", s.seen.Worker.Ready, s.seen.Worker.Desired, s.seeAlso(""))
}

// waitingFor is what keeps the runtime from being ready; nil when nothing does.
func (s *round) waitingFor() *Problem {
	switch {
	case s.problem != nil:
		return s.problem
	case s.seen.Master.Ready == 0 && s.seen.Master.Desired > 0:
		return &Problem{ReasonMasterNotReady, fmt.Sprintf("the master is not ready yet%s", s.seeAlso("see pod "+contract.MasterName(s.key.Name)+"-0"))}
	case !s.seen.Serving:
		return &Problem{ReasonWorkersNotReady, fmt.Sprintf(
			"none of %d workers is ready yet%s", s.seen.Worker.Desired, s.seeAlso("see pods "+contract.WorkerName(s.key.Name)+"-*"))}
	default:
		return nil
	}
}

// seeAlso ends a sentence with the trouble of a pod or, without one, with a hint.
func (s *round) seeAlso(hint string) string {
	if s.trouble != "" {
		hint = s.trouble
	}
	if hint == "" {
		return ""
	}
	return ": " + hint
}

// refuseWhileInUse keeps a deleted runtime while pods use its volume.
func (r *Reconciler) refuseWhileInUse(ctx context.Context, s *round) (flow.Outcome, error) {
	users, err := Readers(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	if len(users) == 0 {
		return flow.Continue(), nil
	}
	r.notReady(s, &Problem{ReasonInUse, fmt.Sprintf(
		"deletion waits for pods that read through it, by PersistentVolumeClaim %s or a Dataset that refers to it: %s; it goes on when they are gone", s.key.Name, NamePods(users))})
	return flow.Wait(), nil
}

// conditionRetired tells how far the cache of a deleted runtime was dropped.
const conditionRetired = "Retired"

// retireCache has the workers drop their files, within bounds: a dead master or
// a lost worker never keeps a runtime from going.
func (r *Reconciler) retireCache(ctx context.Context, s *round) (flow.Outcome, error) {
	list, generation := s.conditions(), s.runtime.GetGeneration()
	pod, err := r.masterPod(ctx, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	known := meta.FindStatusCondition(*list, conditionRetired)
	if pod == nil || isForeign(pod) || known != nil && (known.Status == metav1.ConditionTrue || time.Since(known.LastTransitionTime.Time) > retireTime) {
		return flow.Continue(), nil
	}
	address := r.options.MasterAddress(pod)
	if err := r.observer.Retire(ctx, address); err != nil {
		ctrl.LoggerFrom(ctx).Info("cannot retire the cache yet", "cause", err.Error())
	}
	r.observer.Watch(s.key, address)
	if summary, _, ok := r.observer.Latest(s.key); ok && summary.Retired {
		conditions.True(list, generation, conditionRetired, ReasonRetiring, "the workers dropped their files")
		return flow.Continue(), nil
	}
	conditions.False(list, generation, conditionRetired, ReasonRetiring, "the workers drop their files")
	conditions.False(list, generation, datav1alpha1.RuntimeReady, ReasonDeleting, "the runtime is being deleted")
	return flow.WaitFor(5 * time.Second), nil
}

// deleteObjects removes what was made. Pods follow by garbage collection, which
// needs no finalizer to wait for it.
func (r *Reconciler) deleteObjects(ctx context.Context, s *round) (flow.Outcome, error) {
	d := &Description{Type: r.kind.Type(), Namespace: s.key.Namespace, Name: s.key.Name}
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: s.key.Namespace, Name: name} }
	objects := []client.Object{
		&appsv1.DaemonSet{ObjectMeta: named(d.objectName(contract.ComponentClient))},
		&appsv1.StatefulSet{ObjectMeta: named(d.objectName(contract.ComponentWorker))},
		&appsv1.StatefulSet{ObjectMeta: named(d.objectName(contract.ComponentMaster))},
	}
	for _, c := range components {
		objects = append(objects, &corev1.Service{ObjectMeta: named(d.serviceName(c))})
	}
	for _, obj := range objects {
		if _, err := r.applier.Delete(ctx, obj, func(live client.Object) bool { return metav1.IsControlledBy(live, s.runtime) }); err != nil {
			return flow.Wait(), err
		}
	}
	return flow.Continue(), r.deleteConfigMaps(ctx, s)
}

// clearFuseLabels takes the label that asks for a FUSE pod off every node.
func (r *Reconciler) clearFuseLabels(ctx context.Context, s *round) (flow.Outcome, error) {
	label, err := r.fuseLabel(ctx, s)
	if err != nil {
		return flow.Wait(), err
	}
	return flow.Continue(), r.relabelNodes(ctx, label, func(labels map[string]string) { delete(labels, label) })
}

// relabelNodes edits the labels of every node that has one of them.
func (r *Reconciler) relabelNodes(ctx context.Context, having string, edit func(labels map[string]string)) error {
	nodes := &metav1.PartialObjectMetadataList{}
	nodes.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	if err := r.List(ctx, nodes, client.HasLabels{having}); err != nil {
		return fmt.Errorf("list nodes with label %s: %w", having, err)
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		before := node.DeepCopy()
		node.Labels = maps.Clone(node.Labels)
		edit(node.Labels)
		if err := r.Patch(ctx, node, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("take labels off node %s: %w", node.Name, err)
		}
	}
	return nil
}

// fuseLabel needs the Dataset's UID only for long names.
func (r *Reconciler) fuseLabel(ctx context.Context, s *round) (string, error) {
	ds := &datav1alpha1.Dataset{}
	if err := r.Get(ctx, s.key, ds); client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("read dataset %s: %w", s.key, err)
	}
	return contract.FuseNodeLabel(s.key.Namespace, s.key.Name, string(ds.UID)), nil
}
