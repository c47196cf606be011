package operation

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
)

// ProgressOf is an engine's account of a run, for people.
func ProgressOf(l contract.LoadSummary) *datav1alpha1.OperationProgress {
	p := &datav1alpha1.OperationProgress{
		Percent:   bytesize.Percent(l.BytesDone, l.BytesTotal, l.Phase == contract.LoadComplete),
		BytesDone: l.BytesDone, BytesTotal: l.BytesTotal, FilesDone: l.FilesDone, FilesTotal: l.FilesTotal,
		BytesPerSecond: l.BytesPerSecond, FilesFailed: l.FilesFailed,
	}
	for _, f := range l.Failures {
		p.Failures = append(p.Failures, datav1alpha1.FileFailure{Path: f.Path, Error: f.Error})
	}
	if left := l.BytesTotal - l.BytesDone; l.Phase == contract.LoadRunning && left > 0 && l.BytesPerSecond > 0 {
		eta := time.Duration(float64(left) / float64(l.BytesPerSecond) * float64(time.Second)).Round(time.Second)
		p.ETA = max(eta, time.Second).String()
	}
	return p
}

// StreamOf is the key of the stream in which the pod of an operation tells of its
// progress. No Dataset has such a name.
func StreamOf(kind string, operation types.NamespacedName) types.NamespacedName {
	return types.NamespacedName{Namespace: operation.Namespace, Name: strings.ToLower(kind) + "/" + operation.Name}
}
