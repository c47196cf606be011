package dataset

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// Bounds of what the status takes of an answer.
const (
	maxToken         = 256
	maxRefreshAnswer = 1024
)

// reportSource names the state of the sources that is served, once all of them
// were walked: before, each step of the walk would be another state.
func (s *round) reportSource() {
	st := &s.ds.Status
	if !s.bound {
		st.Source = nil
		return
	}
	if s.target != nil { // followTarget has
		return
	}
	summary := &s.state.Summary
	if !s.state.Connected || !summary.MetadataComplete || summary.Snapshot == "" {
		return
	}
	if st.Source == nil {
		st.Source = &datav1alpha1.SourceState{}
	}
	if st.Source.Snapshot != summary.Snapshot {
		st.Source.Snapshot, st.Source.SnapshotTime = summary.Snapshot, &metav1.Time{Time: time.Now()}
	}
}

// stampLook says when the sources were last looked at, if the status is written
// anyway: that time alone moves for ever, and is worth no write.
func (s *round) stampLook(before *datav1alpha1.Dataset) {
	at := s.state.Summary.LookedAt
	if s.ds.Status.Source == nil || at.IsZero() || equality.Semantic.DeepEqual(before.Status, s.ds.Status) {
		return
	}
	looked(s.ds.Status.Source, at)
}

func looked(source *datav1alpha1.SourceState, at time.Time) {
	if source.LookedTime == nil || source.LookedTime.Time.Before(at) {
		source.LookedTime = &metav1.Time{Time: at}
	}
}

// refresh has the sources looked at when the annotation asks for it, once for
// each of its values, and answers in the status.
func (r *Reconciler) refresh(_ context.Context, s *round) (flow.Outcome, error) {
	token, source := s.ds.Annotations[contract.AnnotationRefresh], s.ds.Status.Source
	if len(token) > maxToken {
		token = token[:maxToken]
	}
	if token == "" || source == nil || source.Refresh != nil && source.Refresh.Token == token {
		return flow.Continue(), nil
	}
	look := s.state.Look
	if look.Token != token || look.Ended.IsZero() {
		r.observer.LookAgain(s.key, token)
		return flow.Continue(), nil
	}
	source.Refresh = &datav1alpha1.RefreshState{Token: token, Time: metav1.Time{Time: look.Ended}, Succeeded: look.Err == nil}
	if look.Err != nil {
		source.Refresh.Message = bounded(fmt.Sprintf("%v; correct it, and give the annotation another value", look.Err))
		return flow.Continue(), nil
	}
	source.Refresh.Message = "the sources are at snapshot " + look.Snapshot
	looked(source, look.Began)
	return flow.Continue(), nil
}

func bounded(text string) string {
	if len(text) > maxRefreshAnswer {
		return text[:maxRefreshAnswer]
	}
	return text
}
