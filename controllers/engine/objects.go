package engine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/internal/bytesize"
)

// Objects are all objects of a runtime, in the order in which they are written.
func (d *Description) Objects() ([]client.Object, error) {
	config, hash, err := d.configMap()
	if err != nil {
		return nil, err
	}
	objects := append([]client.Object{config}, d.extraConfigMaps()...)
	for _, c := range components {
		if d.serviceName(c) != "" {
			objects = append(objects, d.service(c))
		}
	}
	if d.has(contract.ComponentMaster) {
		objects = append(objects, d.masterSet(hash))
	}
	if d.has(contract.ComponentWorker) {
		objects = append(objects, d.workerSet(hash))
	}
	if d.has(contract.ComponentClient) {
		objects = append(objects, d.clientSet())
	}
	return objects, nil
}

// RuntimeConfig is runtime.json.
func (d *Description) RuntimeConfig() *contract.RuntimeConfig {
	component := func(c contract.ComponentType) contract.ComponentConfig {
		spec := d.component(c)
		if spec.Absent {
			return contract.ComponentConfig{}
		}
		return contract.ComponentConfig{
			Enabled: true, Name: d.objectName(c), Options: spec.Options, Replicas: spec.Replicas,
			Service: contract.ServiceConfig{Name: d.serviceName(c)}, TieredStoreLevels: spec.tierConfigs(),
		}
	}
	config := &contract.RuntimeConfig{
		Mounts: d.Sources.Mounts, AccessModes: d.Sources.AccessModes, TargetPath: d.FuseMountPath(),
		Master: component(contract.ComponentMaster),
		Worker: component(contract.ComponentWorker),
		Client: component(contract.ComponentClient),
	}
	config.Worker.Leaving = d.Leaving
	if len(d.Egress) > 0 {
		config.Egress = &contract.EgressConfig{Allow: d.Egress}
	}
	return config
}

// tierConfigs are the tiers as the component finds them in its container.
func (c *Component) tierConfigs() []contract.TierConfig {
	var out []contract.TierConfig
	for i, tier := range c.Tiers {
		config := contract.TierConfig{MediumType: tier.Medium, High: tier.High, Low: tier.Low}
		for j, dir := range tier.Dirs {
			config.MountPaths = append(config.MountPaths, dir.mountPath(i, j))
			quota := quantity(dir.QuotaBytes)
			config.Quotas = append(config.Quotas, quota.String())
		}
		out = append(out, config)
	}
	return out
}

// mountPath is where directory j of level i is mounted in the container.
func (d TierDir) mountPath(i, j int) string {
	switch {
	case d.ProcessMemory:
		return contract.ProcessMemoryDir
	case d.HostPath == "":
		return contract.EmptyDirTierDir(i)
	default:
		return contract.HostPathTierDir(i, j)
	}
}

// configMap holds runtime.json. The hash leaves out what the running engine takes
// in, so that nothing is restarted for it but, of mounts and levels of the cache,
// what needs another volume.
func (d *Description) configMap() (*corev1.ConfigMap, string, error) {
	config := d.RuntimeConfig()
	text, err := config.Encode()
	if err != nil {
		return nil, "", err
	}
	stale := config.WithoutLive()
	if d.Foreign != nil { // other engines read their options and levels when they start
		stale = config
		stale.Mounts, stale.Master.Replicas, stale.Worker.Replicas, stale.Client.Replicas = nil, 0, 0, 0
	}
	hashed, err := stale.Encode()
	if err != nil {
		return nil, "", err
	}
	meta := d.meta(contract.ConfigMapName(d.Name), contract.ComponentMaster)
	delete(meta.Labels, contract.LabelComponent)
	data := map[string]string{contract.RuntimeConfigKey: string(text)}
	if d.Foreign != nil {
		extra, err := json.Marshal(d.Foreign.ConfigMaps)
		if err != nil {
			return nil, "", fmt.Errorf("encode ConfigMaps of the class: %w", err)
		}
		hashed = append(hashed, extra...)
		commands, err := d.Foreign.Commands.Encode()
		if err != nil {
			return nil, "", err
		}
		data[contract.EngineConfigKey] = string(commands)
		meta.Annotations = d.madeFor()
		meta.Annotations[contract.AnnotationFileSystem] = d.Foreign.FileSystem
		if d.mute() {
			meta.Annotations[AnnotationMute] = "true"
		}
	}
	sum := sha256.Sum256(hashed)
	return &corev1.ConfigMap{ObjectMeta: meta, Data: data}, hex.EncodeToString(sum[:8]), nil
}

// madeFor says which state of the Dataset the objects were made for.
func (d *Description) madeFor() map[string]string {
	return map[string]string{
		AnnotationDatasetGeneration: strconv.FormatInt(d.DatasetGeneration, 10), AnnotationMountTable: d.RuntimeConfig().MountTable(),
	}
}

func (d *Description) meta(name string, c contract.ComponentType) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: d.Namespace, Name: name, Labels: d.objectLabels(c),
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: d.APIVersion, Kind: d.Kind, Name: d.Name, UID: d.UID,
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}},
	}
}

// ports of a component's pods by name.
func (d *Description) ports(c contract.ComponentType) []corev1.ContainerPort {
	if d.Foreign != nil {
		var named []corev1.ContainerPort
		if containers := d.component(c).Template.Spec.Containers; len(containers) > 0 {
			for _, p := range containers[0].Ports {
				if p.Name != "" { // a headless Service needs no other one
					named = append(named, p)
				}
			}
		}
		return named
	}
	port := func(name string, number int32) corev1.ContainerPort {
		return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
	}
	switch c {
	case contract.ComponentMaster:
		return []corev1.ContainerPort{port("rpc", contract.MasterRPCPort), port("http", contract.MasterHTTPPort)}
	case contract.ComponentWorker:
		return []corev1.ContainerPort{port("data", contract.WorkerDataPort), port("http", contract.WorkerHTTPPort)}
	default:
		return []corev1.ContainerPort{port("http", contract.ClientHTTPPort)}
	}
}

// service is headless: it only gives the component's pods a name.
func (d *Description) service(c contract.ComponentType) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: d.meta(d.serviceName(c), c),
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Selector: d.selector(c),
		},
	}
	for _, p := range d.ports(c) {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Name: p.Name, Port: p.ContainerPort, TargetPort: intstr.FromString(p.Name), Protocol: p.Protocol,
		})
	}
	return svc
}

func (d *Description) masterSet(hash string) *appsv1.StatefulSet {
	set := d.statefulSet(contract.ComponentMaster)
	set.Annotations = d.madeFor()
	set.Spec.Template.Annotations[AnnotationConfigHash] = hash
	if d.Foreign != nil {
		return set // it may keep what two of them would spoil
	}
	// A master is wanted again soon when its node is gone.
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		set.Spec.Template.Spec.Tolerations = append(set.Spec.Template.Spec.Tolerations, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](10),
		})
	}
	return set
}

func (d *Description) workerSet(hash string) *appsv1.StatefulSet {
	set := d.statefulSet(contract.ComponentWorker)
	pod := &set.Spec.Template
	pod.Annotations[AnnotationConfigHash] = hash
	pod.Annotations[AnnotationNodeLabels] = cmp.Or(d.FirstNodeLabels, d.nodeLabels())
	pod.Labels[contract.LabelDataset] = d.datasetID()
	pod.Labels[contract.LabelDatasetPlace] = d.placement()
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	pod.Spec.Affinity.PodAntiAffinity = d.apartness()
	if d.WorkerNodes != nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.WorkerNodes}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, d.WorkerTolerations...)
	return set
}

func (d *Description) statefulSet(c contract.ComponentType) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: d.meta(d.objectName(c), c),
		Spec: appsv1.StatefulSetSpec{
			Replicas:            ptr.To(max(d.component(c).Replicas, d.kept(c))),
			ServiceName:         d.serviceName(c),
			PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector:            &metav1.LabelSelector{MatchLabels: d.selector(c)},
			Template:            d.pod(c),
		},
	}
}

// kept is how many pods of a component there are at least for now.
func (d *Description) kept(c contract.ComponentType) int32 {
	if c == contract.ComponentWorker {
		return d.Kept
	}
	return 0
}

// clientSet runs a FUSE pod on every node that carries the Dataset's label. A
// changed template never restarts a FUSE that pods may be reading through.
func (d *Description) clientSet() *appsv1.DaemonSet {
	pod := d.pod(contract.ComponentClient)
	pod.Spec.NodeSelector = maps.Clone(pod.Spec.NodeSelector)
	if pod.Spec.NodeSelector == nil {
		pod.Spec.NodeSelector = map[string]string{}
	}
	pod.Spec.NodeSelector[contract.FuseNodeLabel(d.Namespace, d.Name, string(d.DatasetUID))] = "true"
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	return &appsv1.DaemonSet{
		ObjectMeta: d.meta(d.objectName(contract.ComponentClient), contract.ComponentClient),
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: d.selector(contract.ComponentClient)},
			Template:       pod,
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
		},
	}
}

func (d *Description) placement() string {
	if d.Exclusive {
		return "Exclusive"
	}
	return "Shared"
}

// apartness keeps two workers of one runtime off one node, and exclusive
// Datasets apart from all others, whatever their namespaces.
func (d *Description) apartness() *corev1.PodAntiAffinity {
	term := func(everywhere bool, selector metav1.LabelSelector) corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: &selector}
		if everywhere {
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		return t
	}
	others := metav1.LabelSelectorRequirement{Key: contract.LabelDatasetPlace, Operator: metav1.LabelSelectorOpIn, Values: []string{"Exclusive"}}
	if d.Exclusive {
		others = metav1.LabelSelectorRequirement{Key: contract.LabelDataset, Operator: metav1.LabelSelectorOpExists}
	}
	return &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		term(false, metav1.LabelSelector{MatchLabels: d.selector(contract.ComponentWorker)}),
		term(true, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{others}}),
	}}
}

// nodeLabels are the labels of a node where a worker runs, as JSON.
func (d *Description) nodeLabels() string {
	uid := string(d.DatasetUID)
	memory, disk := d.Worker.capacity()
	labels := map[string]string{
		contract.DatasetLabel(d.Namespace, d.Name, uid):             "true",
		contract.RuntimeNodeLabel(d.Type, d.Namespace, d.Name, uid): "true",
	}
	for medium, size := range map[contract.Medium]int64{
		contract.MediumMemory: memory, contract.MediumDisk: disk, contract.MediumTotal: memory + disk,
	} {
		if size > 0 {
			labels[contract.CapacityNodeLabel(d.Type, medium, d.Namespace, d.Name, uid)] = bytesize.Label(size)
		}
	}
	if d.Exclusive {
		labels[contract.LabelExclusive] = contract.ExclusiveValue(d.Namespace, d.Name)
	}
	text, err := json.Marshal(labels)
	if err != nil {
		panic(fmt.Sprintf("encode node labels: %v", err)) // a map of strings always encodes
	}
	return string(text)
}
