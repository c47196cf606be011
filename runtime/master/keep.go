package master

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// keysAtOnce bounds one order: 16 bytes each, well below gRPC's 4 MiB.
	keysAtOnce = 1 << 16
	// keepAnswer is how long a worker may take to do what one order says.
	keepAnswer = time.Minute
	// patternChars make a path a pattern of path.Match.
	patternChars = `*?[\`
)

// asked is an order to a worker that waits for its answer; none comes when the
// worker's stream ends.
type asked struct {
	worker  string
	answers chan<- *wirepb.Kept // has room for it
}

// Keep pins, unpins or frees what the workers have of files. An error leaves
// some of it done; to ask again is right.
func (m *Master) Keep(ctx context.Context, r *wirepb.KeepRequest) (*wirepb.KeepReply, error) {
	switch r.GetAction() {
	case wirepb.KeepAction_KEEP_ACTION_PIN, wirepb.KeepAction_KEEP_ACTION_UNPIN, wirepb.KeepAction_KEEP_ACTION_FREE:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "there is no action %d: pin, unpin or free", r.GetAction())
	}
	if len(r.GetPaths()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name at least one path")
	}
	keys, reply, err := m.named(ctx, r.GetPaths())
	if err != nil {
		return nil, statusOf(err)
	}
	for some := range slices.Chunk(keys, keysAtOnce) {
		if err := m.keep(ctx, r.GetAction(), some, reply); err != nil {
			return nil, err
		}
	}
	m.log.InfoContext(ctx, "kept", "action", r.GetAction().String(), "files", reply.GetFiles(), "cachedFiles", reply.GetCachedFiles())
	return reply, nil
}

// named gives the keys of all files that paths name, each once.
func (m *Master) named(ctx context.Context, paths []string) (keys []key, reply *wirepb.KeepReply, err error) {
	reply = &wirepb.KeepReply{}
	seen := map[uint64]struct{}{}
	for _, p := range paths {
		entries, err := m.expand(ctx, p)
		if err != nil {
			return nil, nil, fmt.Errorf("look for %s: %w", p, err)
		}
		for _, entry := range entries {
			if err := m.tree.WaitKnown(ctx, entry.path); err != nil {
				return nil, nil, fmt.Errorf("list %s: %w", entry.path, err)
			}
			m.tree.Files(entry.Ino, func(e namespace.Entry) bool {
				if _, again := seen[e.Ino]; !again {
					seen[e.Ino] = struct{}{}
					keys = append(keys, objectKey(e))
					reply.Files++
					reply.Bytes += e.Size
				}
				return true
			})
		}
	}
	return keys, reply, nil
}

// match is an entry that a path or pattern names.
type match struct {
	namespace.Entry
	path string
}

// expand finds what a path names: itself, or as a pattern of path.Match all
// that it matches, which is at least one.
func (m *Master) expand(ctx context.Context, pattern string) ([]match, error) {
	pattern = path.Clean("/" + pattern)
	entry, err := m.tree.Resolve(ctx, pattern)
	if err == nil {
		return []match{{entry, pattern}}, nil
	}
	if status.Code(statusOf(err)) != codes.NotFound || !strings.ContainsAny(pattern, patternChars) {
		return nil, err
	}
	if _, bad := path.Match(pattern, ""); bad != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrInvalid, bad)
	}
	found := []match{{namespace.Entry{Ino: namespace.RootIno, Mode: syscall.S_IFDIR}, "/"}}
	for _, part := range strings.Split(strings.Trim(pattern, "/"), "/") {
		var below []match
		for _, in := range found {
			if !in.IsDir() {
				continue
			}
			children, err := m.tree.ReadDir(ctx, in.Ino)
			if err != nil {
				return nil, err
			}
			for _, c := range children {
				if ok, _ := path.Match(part, c.Name); ok {
					below = append(below, match{c, path.Join(in.path, c.Name)})
				}
			}
		}
		found = below
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("nothing matches: %w", source.ErrNotExist)
	}
	return found, nil
}

// keep has all workers do one thing to some keys, and adds to reply. Every
// worker is asked: what one has may be newer than what this master knows of it.
func (m *Master) keep(ctx context.Context, action wirepb.KeepAction, keys []key, reply *wirepb.KeepReply) error {
	ctx, cancel := context.WithTimeoutCause(ctx, keepAnswer, status.Error(codes.DeadlineExceeded, "a worker does not answer; ask again"))
	defer cancel()
	order := &wirepb.Keep{Action: action, Keys: make([]byte, 0, len(keys)*len(key{}))}
	for _, k := range keys {
		order.Keys = append(order.Keys, k[:]...)
	}
	ids, answers, err := m.askAll(order)
	defer m.forgetAsked(ids)
	if err != nil {
		return err
	}
	done, pinned := make([]byte, (len(keys)+7)/8), make([]byte, (len(keys)+7)/8)
	for range ids {
		select {
		case answer := <-answers:
			if answer == nil {
				return status.Error(codes.Unavailable, "a worker went before it had answered; ask again")
			}
			unite(done, answer.GetDone())
			unite(pinned, answer.GetPinned())
			reply.CachedBytes += answer.GetBytes()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.ctx.Done():
			return status.Error(codes.Unavailable, "the master is going down")
		}
	}
	for i := range int64(len(keys)) {
		if bit(done, i) {
			reply.CachedFiles++
		}
		if bit(pinned, i) {
			reply.PinnedFiles++
		}
	}
	return nil
}

func unite(all, some []byte) {
	for i := range min(len(all), len(some)) {
		all[i] |= some[i]
	}
}

// askAll gives an order to every member. Each answers, or nil comes in its place.
func (m *Master) askAll(order *wirepb.Keep) (ids []uint64, _ <-chan *wirepb.Kept, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.retired {
		return nil, nil, status.Error(codes.FailedPrecondition, retiring)
	}
	answers := make(chan *wirepb.Kept, len(m.workers))
	for name, w := range m.workers {
		if w.session == nil {
			return ids, nil, status.Errorf(codes.Unavailable, "the worker %s is not connected; ask again", name)
		}
		id := m.taskIDs.Add(1)
		ids = append(ids, id)
		m.asked[id] = asked{name, answers}
		w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Keep{Keep: &wirepb.Keep{Id: id, Action: order.GetAction(), Keys: order.GetKeys()}}})
	}
	return ids, answers, nil
}

func (m *Master) forgetAsked(ids []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.asked, id)
	}
}

// answered brings a worker's answer to who waits for it.
func (m *Master) answered(w *worker, kept *wirepb.Kept) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.asked[kept.GetId()]; ok && a.worker == w.member.GetName() {
		delete(m.asked, kept.GetId())
		a.answers <- kept
	}
}

// lostAnswers tells those who wait for a worker that its stream ended; the
// caller holds m.mu.
func (m *Master) lostAnswers(worker string) {
	for id, a := range m.asked {
		if a.worker == worker {
			delete(m.asked, id)
			a.answers <- nil
		}
	}
}

// keepSummary is a reply as the contract has it.
func keepSummary(r *wirepb.KeepReply) contract.KeepSummary {
	return contract.KeepSummary{Files: r.GetFiles(), Bytes: r.GetBytes(), CachedFiles: r.GetCachedFiles(),
		CachedBytes: r.GetCachedBytes(), PinnedFiles: r.GetPinnedFiles()}
}
