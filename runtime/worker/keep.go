package worker

import (
	"context"

	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// keep pins, unpins or frees the files that are here of an order's keys. What
// the order's session does not live to hear is asked for again.
func (w *Worker) keep(ctx context.Context, o *wirepb.Keep) *wirepb.Kept {
	n := len(o.GetKeys()) / wire.KeyBytes
	kept := &wirepb.Kept{Id: o.GetId(), Done: make([]byte, (n+7)/8), Pinned: make([]byte, (n+7)/8)}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		key := store.KeyOf([wire.KeyBytes]byte(o.GetKeys()[i*wire.KeyBytes:]))
		bytes, pinned, ok := w.store.Holds(key)
		if !ok {
			continue
		}
		done := false
		switch o.GetAction() {
		case wirepb.KeepAction_KEEP_ACTION_PIN:
			done = w.store.Pin(key)
		case wirepb.KeepAction_KEEP_ACTION_UNPIN:
			done = w.store.Unpin(key)
		case wirepb.KeepAction_KEEP_ACTION_FREE:
			done = w.store.Free(key)
		}
		switch bit := byte(1) << (i % 8); {
		case done:
			kept.Done[i/8] |= bit
			kept.Bytes += bytes
		case pinned:
			kept.Pinned[i/8] |= bit
		}
	}
	return kept
}
