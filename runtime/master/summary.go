package master

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Summary tells how the cache does now.
func (m *Master) Summary() contract.Summary {
	// The revision first: what changes while the rest is read is told again.
	s := contract.Summary{Revision: m.revision.Load()}
	totals := m.tree.Totals()
	s.Snapshot, s.MetadataComplete = totals.Snapshot.String(), totals.Complete
	s.UFSTotalBytes, s.FileNum = totals.Bytes, totals.Files
	states := m.tree.MountStates()
	for i := range states {
		if err := m.refusal(states[i].Path); err != nil {
			states[i].Err, states[i].Tried = err, true
		}
	}
	for _, state := range states {
		s.Mounts = append(s.Mounts, mountSummary(state))
	}
	s.LookedAt = lookedAt(states)
	s.CachedBytes = m.ledger.cachedBytes()
	s.Reads = contract.ReadSummary{
		LocalBytes: m.reads.local.Load(), RemoteBytes: m.reads.remote.Load(), SourceBytes: m.reads.source.Load(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Retired, s.MountTable, s.Live = m.retired, m.table, m.live
	for _, w := range m.workers {
		one := contract.WorkerSummary{
			Name: w.member.GetName(), Node: w.member.GetNode(), Message: w.usage.GetMessage(),
			CapacityBytes: w.member.GetCapacityBytes(), UsedBytes: w.usage.GetUsedBytes(), CachedBytes: m.ledger.cachedAt(&w.holder),
		}
		one.Live = w.usage.GetLive()
		_, one.Leaving = m.leaving[one.Name]
		one.Complete = totals.Complete && one.CachedBytes >= totals.Bytes
		s.CapacityBytes += one.CapacityBytes
		s.Retired = s.Retired && (w.retired || w.session == nil)
		s.Workers = append(s.Workers, one)
	}
	s.Drain = m.drain.summary()
	slices.SortFunc(s.Workers, func(a, b contract.WorkerSummary) int { return strings.Compare(a.Name, b.Name) })
	now := time.Now()
	for id, j := range m.jobs {
		if j.expired(now) {
			delete(m.jobs, id)
			continue
		}
		s.Loads = append(s.Loads, j.snapshot())
	}
	slices.SortFunc(s.Loads, func(a, b contract.LoadSummary) int { return strings.Compare(a.ID, b.ID) })
	return s
}

// lookedAt is when the sources were last looked at: the least of the mounts.
func lookedAt(states []namespace.MountState) (first time.Time) {
	for i, state := range states {
		if i == 0 || state.Looked.Before(first) {
			first = state.Looked
		}
	}
	return first.UTC().Truncate(time.Second)
}

// refusal is why a path does not have the source that it should have.
func (m *Master) refusal(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused[path]
}

// Reasons of mounts, each with what to do about it.
var reasons = []struct {
	err          error
	reason, next string
}{
	{source.ErrNotExist, contract.MountNotFound, "create it or correct the mountPoint"},
	{source.ErrDenied, contract.MountDenied, "check the credentials in encryptOptions, and that they may list and read"},
	{errors.ErrUnsupported, contract.MountNotSupported, "use a scheme that this engine serves"},
	{source.ErrInvalid, contract.MountInvalid, "correct the mountPoint or its options"},
	{source.ErrUnavailable, contract.MountUnavailable, "it is tried again every 30s at most; check the endpoint and the network"},
}

func mountSummary(state namespace.MountState) contract.MountSummary {
	s := contract.MountSummary{Path: state.Path, Files: state.Files, Bytes: state.Bytes}
	switch {
	case !state.Tried:
		s.Reason, s.Message = contract.MountUnavailable, "connecting to "+state.URI
	case state.Err == nil:
		s.Ready, s.Reason, s.Message = true, contract.MountReady, state.Note
	default:
		s.Reason, s.Message = describe(state)
	}
	return s
}

func describe(state namespace.MountState) (reason, message string) {
	cause := state.Err.Error()
	if !strings.Contains(cause, state.URI) {
		cause = state.URI + ": " + cause
	}
	for _, r := range reasons {
		if errors.Is(state.Err, r.err) {
			return r.reason, fmt.Sprintf("%s; %s", cause, r.next)
		}
	}
	return contract.MountUnavailable, fmt.Sprintf("%s; %s", cause, reasons[len(reasons)-1].next)
}

// Retire tells every worker to drop its files. Idempotent.
func (m *Master) Retire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.retired {
		return
	}
	m.retired = true
	for _, w := range m.workers {
		w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Retire{Retire: &wirepb.Retire{}}})
	}
	for _, j := range m.jobs {
		j.cancel(errRetiring)
	}
	m.bumpLocked()
	m.log.Info("retiring: the workers drop their files", "workers", len(m.workers))
}
