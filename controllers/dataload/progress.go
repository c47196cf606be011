package dataload

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
)

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
