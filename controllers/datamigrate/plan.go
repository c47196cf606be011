package datamigrate

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/operation"
)

// Names in spec.options.
const (
	// optionStreams is how many files are copied at once.
	optionStreams = "concurrency"
	maxStreams    = 64
	// optionsOfFrom and optionsOfTo begin the options of an externalStorage.
	optionsOfFrom = "from."
	optionsOfTo   = "to."
)

// plan is what a Job needs: what to copy, and what its pod mounts for it.
type plan struct {
	migration contract.Migration
	// claims are mounted; of those that are true something is written to.
	claims map[string]bool
	// secrets are keys by the name of their Secret.
	secrets map[string][]string
}

func (p *plan) secretNames() []string { return slices.Sorted(maps.Keys(p.secrets)) }

func invalid(format string, args ...any) *operation.Problem {
	return &operation.Problem{Reason: contract.EventDataOperationNotValid, Message: fmt.Sprintf(format, args...), Hopeless: true}
}

// refuse finds what can never run, as far as the DataMigrate alone shows it.
func refuse(dm *datav1alpha1.DataMigrate) *operation.Problem {
	for _, end := range []struct {
		field string
		what  *datav1alpha1.DataToMigrate
	}{{"spec.from", &dm.Spec.From}, {"spec.to", &dm.Spec.To}} {
		dataset, storage := end.what.DataSet, end.what.ExternalStorage
		switch {
		case dataset == nil && storage == nil:
			return invalid("%s names neither a dataset nor an externalStorage: give one of them", end.field)
		case dataset != nil && storage != nil:
			return invalid("%s names both a dataset and an externalStorage: leave one of them out", end.field)
		case dataset != nil && dataset.Namespace != "" && dataset.Namespace != dm.Namespace:
			return &operation.Problem{Reason: contract.EventTargetDatasetNamespaceDiff, Message: fmt.Sprintf(
				"Dataset %s of %s is in namespace %s: a pod can only mount what is in its own, create the DataMigrate there", dataset.Name, end.field, dataset.Namespace)}
		case storage != nil:
			if problem := refuseStorage(end.field, storage.URI, end.field == "spec.to"); problem != nil {
				return problem
			}
		}
	}
	if dm.Spec.From.DataSet == nil && dm.Spec.To.DataSet == nil {
		return invalid("neither spec.from nor spec.to is a dataset: name one at one of the ends")
	}
	if v, ok := dm.Spec.Options[optionStreams]; ok {
		if n, err := strconv.Atoi(v); err != nil || n < 1 || n > maxStreams {
			return invalid("option %s is %q: give a number from 1 to %d", optionStreams, v, maxStreams)
		}
	}
	return nil
}

func refuseStorage(field, uri string, written bool) *operation.Problem {
	scheme, _, ok := strings.Cut(uri, "://")
	switch {
	case !ok:
		return invalid("%s.externalStorage.uri has no scheme: write it as s3://bucket/prefix or pvc://claim/directory", field)
	case strings.Contains(uri, "@"):
		return invalid("%s.externalStorage.uri has a user or password in it: put them into a Secret and name it in encryptOptions", field)
	case scheme == "local":
		return invalid("%s.externalStorage.uri is a directory of some node: make a PersistentVolumeClaim of it and write pvc://claim", field)
	case written && !writable(uri):
		return invalid("%s.externalStorage.uri: nothing can be written to %s://: copy to pvc:// or to a store that speaks S3 (%s)", field, scheme, strings.Join(contract.SchemesS3, ", "))
	}
	return nil
}

func writable(mountPoint string) bool {
	if _, _, ok := contract.PVCClaim(mountPoint); ok {
		return true
	}
	scheme, _, _ := strings.Cut(mountPoint, "://")
	return slices.Contains(contract.SchemesS3, scheme)
}

// notServed names the fields that are set and do nothing.
func notServed(spec *datav1alpha1.DataMigrateSpec) string {
	var out []string
	if spec.Parallelism > 1 {
		out = append(out, "spec.parallelism (one pod copies; options.concurrency says how many files at once)")
	}
	if len(spec.ParallelOptions) > 0 {
		out = append(out, "spec.parallelOptions")
	}
	if spec.RuntimeType != "" {
		out = append(out, "spec.runtimeType (the native engine copies)")
	}
	if spec.Image != "" || spec.ImageTag != "" {
		out = append(out, "spec.image and spec.imageTag (the native engine copies)")
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Options)) {
		if name != optionStreams && !strings.HasPrefix(name, optionsOfFrom) && !strings.HasPrefix(name, optionsOfTo) {
			out = append(out, "spec.options."+name)
		}
	}
	return strings.Join(out, ", ")
}

// planOf says what to copy. target is the Dataset of spec.to, if that names one,
// else that of spec.from.
func planOf(dm *datav1alpha1.DataMigrate, target *datav1alpha1.Dataset) (*plan, *operation.Problem) {
	p := &plan{claims: map[string]bool{}, secrets: map[string][]string{}}
	m := &p.migration
	m.Streams, _ = strconv.Atoi(dm.Spec.Options[optionStreams])
	if from := dm.Spec.From.DataSet; from != nil {
		// As every pod sees it: with all its mounts, and from the cache what is cached.
		m.From, m.FromPath = contract.MountConfig{MountPoint: contract.SchemePVC + from.Name}, path.Clean("/"+from.Path)
		p.claims[from.Name] = false
	} else {
		m.From = p.external(dm.Spec.From.ExternalStorage, dm.Spec.Options, optionsOfFrom)
		if claim, _, ok := contract.PVCClaim(m.From.MountPoint); ok {
			p.claims[claim] = false
		}
	}
	if to := dm.Spec.To.DataSet; to != nil {
		problem := p.into(target, path.Clean("/"+to.Path))
		if problem != nil {
			return nil, problem
		}
	} else {
		m.To = p.external(dm.Spec.To.ExternalStorage, dm.Spec.Options, optionsOfTo)
	}
	if claim, _, ok := contract.PVCClaim(m.To.MountPoint); ok {
		p.claims[claim] = true
	}
	return p, nil
}

// external is storage that no Dataset describes.
func (p *plan) external(storage *datav1alpha1.ExternalStorage, options map[string]string, prefix string) contract.MountConfig {
	mount := contract.MountConfig{MountPoint: storage.URI, Options: map[string]string{}, EncryptOptions: map[string]string{}}
	for name, value := range options {
		if own, ok := strings.CutPrefix(name, prefix); ok {
			mount.Options[own] = value
		}
	}
	for _, o := range storage.EncryptOptions {
		ref := o.ValueFrom.SecretKeyRef
		mount.EncryptOptions[o.Name] = contract.SecretPath(ref.Name, ref.Key)
		delete(mount.Options, o.Name)
		p.secrets[ref.Name] = append(p.secrets[ref.Name], ref.Key)
	}
	return mount
}

// into finds the mount of a Dataset that holds a path, and writes to its source:
// the cache itself is for reading.
func (p *plan) into(ds *datav1alpha1.Dataset, at string) *operation.Problem {
	sources := engine.SourcesOf(ds)
	best, found := contract.MountConfig{}, ""
	for _, mount := range sources.Mounts {
		if where := contract.MountPath(mount.Path, mount.Name); within(at, where) && len(where) > len(found) {
			best, found = mount, where
		}
	}
	switch {
	case found == "":
		return invalid("path %s of Dataset %s lies in none of its mounts: give spec.to.dataset.path below one of them", at, ds.Name)
	case best.ReadOnly:
		return invalid("path %s lies in mount %s of Dataset %s, which is readOnly", at, best.Name, ds.Name)
	case !writable(best.MountPoint):
		return invalid("path %s lies in a mount of Dataset %s whose source cannot be written to: it can be pvc:// or a store that speaks S3", at, ds.Name)
	}
	best.Path, best.Name = "", ""
	p.migration.To, p.migration.ToPath = best, strings.TrimPrefix(at, found)
	for name, file := range best.EncryptOptions {
		secret, key := path.Base(path.Dir(file)), path.Base(file)
		if best.EncryptOptions[name] == contract.SecretPath(secret, key) {
			p.secrets[secret] = append(p.secrets[secret], key)
		}
	}
	return nil
}

func within(at, dir string) bool {
	return dir == "/" || at == dir || strings.HasPrefix(at, dir+"/")
}
