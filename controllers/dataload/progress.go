package dataload

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
)

// progressOf is a master's account of a load, for people.
func progressOf(l contract.LoadSummary) *datav1alpha1.OperationProgress {
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

// completed makes the progress whole and says so, with what the engine said.
func completed(dl *datav1alpha1.DataLoad, p *datav1alpha1.OperationProgress, took time.Duration, said string) string {
	p.BytesDone, p.FilesDone, p.Percent, p.ETA = p.BytesTotal, p.FilesTotal, bytesize.Percent(p.BytesTotal, p.BytesTotal, true), ""
	p.BytesPerSecond = int64(float64(p.BytesTotal) / took.Seconds()) // the average, now that there is no "lately"
	p.FilesFailed, p.Failures = 0, nil
	message := fmt.Sprintf("loaded %s in %d files in %s", bytesize.Format(p.BytesTotal), p.FilesTotal, took)
	if said == "" {
		return message
	}
	if keep := dl.Spec.Options[contract.LoadKeep]; keep == contract.LoadKeepUnpin || keep == contract.LoadKeepFree {
		p.BytesPerSecond = 0
		return said
	}
	return message + "; " + said
}
