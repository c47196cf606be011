// Package store keeps bytes on a node: one sparse file for each version of an
// object, whose blocks come in any order. Space is reserved before it is
// written, whole files are evicted, and nothing that does not verify is given
// out.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// ErrNoSpace: the bytes do not fit, and nothing that may go is left to evict.
var ErrNoSpace = errors.New("no space in the cache")

// DefaultBlockBytes is the unit of presence.
const DefaultBlockBytes = 4 << 20

// Key names a cached file: 32 hex digits that stand for one version of one object.
type Key string

func (k Key) valid() bool {
	if len(k) != 32 {
		return false
	}
	for _, c := range k {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Dir is a directory that may hold QuotaBytes.
type Dir struct {
	Path       string
	QuotaBytes int64
}

// Tier is a level of the store. Eviction of what may go starts when more than
// High of a quota is used and stops at Low; both are fractions.
type Tier struct {
	Medium    string
	Dirs      []Dir
	High, Low float64
}

// Change is what became of a cached file. Bitmap has the lowest block first and
// is nil when the file is complete or dropped.
type Change struct {
	Key      Key
	Size     int64
	Complete bool
	Bitmap   []byte
	Dropped  bool
}

// Options of a Store.
type Options struct {
	// Tiers from fast to slow.
	Tiers []Tier
	// BlockBytes is DefaultBlockBytes if 0.
	BlockBytes int64
	// OnChange is told of every change, in no lock; it must not block.
	OnChange func(Change)
	Logger   *slog.Logger
}

// Store is the cache of one worker. It is safe for concurrent use.
type Store struct {
	blockBytes int64
	onChange   func(Change)
	log        *slog.Logger
	message    string

	// mu guards all below and every directory's accounts. It is taken before a
	// File's own lock, never after.
	mu    sync.Mutex
	dirs  []*directory // fast tiers first
	files map[Key]*entry
	// clock orders the uses of guests; the smallest goes first.
	clock int64
}

// Open takes the directories, recovers what verifies in them, and forgets the rest.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{blockBytes: o.BlockBytes, onChange: o.OnChange, log: o.Logger, files: map[Key]*entry{}}
	if s.blockBytes == 0 {
		s.blockBytes = DefaultBlockBytes
	}
	if s.onChange == nil {
		s.onChange = func(Change) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for level, tier := range o.Tiers {
		for _, d := range tier.Dirs {
			dir, err := openDirectory(d, tier)
			if err != nil {
				_ = s.Close()
				return nil, fmt.Errorf("open level %d (%s) of the cache: %w", level, tier.Medium, err)
			}
			s.dirs = append(s.dirs, dir)
			if err := s.recover(ctx, dir); err != nil {
				_ = s.Close()
				return nil, fmt.Errorf("recover level %d (%s) of the cache: %w", level, tier.Medium, err)
			}
			if cut := dir.fitDisk(); cut != "" {
				s.message = cut
				s.log.WarnContext(ctx, "quota is larger than the disk", "message", cut)
			}
		}
	}
	return s, nil
}

// Message says what keeps the store from its quotas, or is empty.
func (s *Store) Message() string { return s.message }

// BlockBytes is the unit of presence.
func (s *Store) BlockBytes() int64 { return s.blockBytes }

// Usage sums over the tiers: bytes on disk and bytes allowed.
func (s *Store) Usage() (used, capacity int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirs {
		used, capacity = used+d.used, capacity+d.quota
	}
	return used, capacity
}

// TierUsage is the account of one directory.
type TierUsage struct {
	Medium, Path             string
	UsedBytes, CapacityBytes int64
}

// Tiers gives each directory's account, fast tiers first.
func (s *Store) Tiers() []TierUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]TierUsage, len(s.dirs))
	for i, d := range s.dirs {
		out[i] = TierUsage{Medium: d.medium, Path: d.path, UsedBytes: d.used, CapacityBytes: d.quota}
	}
	return out
}

// Acquire leases the file of key, making an empty one if there is none. While a
// file is leased it is not evicted. guest says that this worker does not own
// the bytes: guests go first. ErrNoSpace if no directory could ever take a block.
func (s *Store) Acquire(key Key, size int64, guest bool) (*File, error) {
	if !key.valid() || size < 0 {
		return nil, fmt.Errorf("acquire cached file %q of %d bytes: bad key or size", key, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e != nil && e.size != size {
		return nil, fmt.Errorf("acquire cached file %s: it has %d bytes, not %d", key, e.size, size)
	}
	if e == nil {
		dir := s.place(min(size, s.blockBytes))
		if dir == nil {
			return nil, fmt.Errorf("acquire cached file %s of %d bytes: %w", key, size, ErrNoSpace)
		}
		var err error
		if e, err = createEntry(dir, key, size, s.blockBytes, guest); err != nil {
			return nil, fmt.Errorf("acquire cached file %s: %w", key, err)
		}
		s.files[key] = e
	}
	if !guest {
		e.guest = false // an owner's interest outlives a guest's
	}
	return s.lease(e), nil
}

// Lookup leases the file of key if there is one.
func (s *Store) Lookup(key Key) (*File, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e == nil {
		return nil, false
	}
	return s.lease(e), true
}

func (s *Store) lease(e *entry) *File {
	s.clock++
	e.leases, e.lastUse = e.leases+1, s.clock
	return &File{store: s, e: e}
}

// Drop forgets a file. Its bytes go when the last lease ends; whoever holds a
// descriptor keeps reading what it had.
func (s *Store) Drop(key Key) {
	s.mu.Lock()
	e := s.files[key]
	if e != nil {
		s.forget(e)
	}
	s.mu.Unlock()
	if e != nil {
		s.onChange(Change{Key: key, Size: e.size, Dropped: true})
	}
}

// DropAll forgets every file.
func (s *Store) DropAll() {
	s.mu.Lock()
	keys := make([]Key, 0, len(s.files))
	for key := range s.files {
		keys = append(keys, key)
	}
	s.mu.Unlock()
	for _, key := range keys {
		s.Drop(key)
	}
}

// Each tells of every file that has bytes.
func (s *Store) Each(f func(Change)) {
	s.mu.Lock()
	entries := make([]*entry, 0, len(s.files))
	for _, e := range s.files {
		entries = append(entries, e)
	}
	s.mu.Unlock()
	for _, e := range entries {
		if c, ok := e.change(); ok {
			f(c)
		}
	}
}

// Close lets go of the directories. Files stay for the next Open.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, e := range s.files {
		errs = append(errs, e.close())
	}
	s.files = map[Key]*entry{}
	for _, d := range s.dirs {
		errs = append(errs, d.close())
	}
	s.dirs = nil
	return errors.Join(errs...)
}

// place chooses the directory for a new file: the first tier with room for n
// bytes, in it the directory with the most room; where none has room, the one
// with the most guests to evict. Callers hold mu.
func (s *Store) place(n int64) *directory {
	var best, last *directory
	for _, d := range s.dirs {
		if d.quota < n {
			continue
		}
		if d.free() >= n && (best == nil || best.medium == d.medium && d.free() > best.free()) {
			best = d
		}
		if last == nil || s.guestBytes(d) > s.guestBytes(last) {
			last = d
		}
	}
	if best != nil {
		return best
	}
	if last != nil && s.guestBytes(last) > 0 {
		return last
	}
	return nil
}

func (s *Store) guestBytes(d *directory) (n int64) {
	for _, e := range s.files {
		if e.dir == d && e.guest && e.leases == 0 {
			n += e.charged
		}
	}
	return n
}

// reserve charges n bytes of e to its directory, evicting guests if it must.
// Evicted files are returned for OnChange, which must be called without mu.
func (s *Store) reserve(e *entry, n int64) (evicted []*entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := e.dir
	if d.used+n > int64(float64(d.quota)*d.high) {
		evicted = s.evict(d, e, int64(float64(d.quota)*d.low)-n)
	}
	if d.used+n > d.quota {
		return evicted, ErrNoSpace
	}
	d.used += n
	e.charged += n
	return evicted, nil
}

// evict forgets guests that nobody leases, the longest unused first, until at
// most target bytes are used. Callers hold mu.
func (s *Store) evict(d *directory, spare *entry, target int64) (out []*entry) {
	for d.used > target {
		var oldest *entry
		for _, e := range s.files {
			if e.dir == d && e != spare && e.guest && e.leases == 0 && e.charged > 0 && (oldest == nil || e.lastUse < oldest.lastUse) {
				oldest = e
			}
		}
		if oldest == nil {
			return out
		}
		s.forget(oldest)
		out = append(out, oldest)
	}
	return out
}

func (s *Store) refund(e *entry, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.dir.used -= n
	e.charged -= n
}

// forget takes e out of the index and unlinks it; its space is given back when
// nobody leases it. Callers hold mu.
func (s *Store) forget(e *entry) {
	if e.dropped {
		return
	}
	e.dropped = true
	delete(s.files, e.key)
	if err := e.unlink(); err != nil {
		s.log.Error("unlink cached file", "key", e.key, "error", err)
	}
	if e.leases == 0 {
		s.release(e)
	}
}

// release gives the space of a dropped file back. Callers hold mu.
func (s *Store) release(e *entry) {
	e.dir.used -= e.charged
	e.charged = 0
	if err := e.close(); err != nil {
		s.log.Error("close cached file", "key", e.key, "error", err)
	}
}

// recover reads what a former process left in a directory.
func (s *Store) recover(ctx context.Context, d *directory) error {
	shards, err := os.ReadDir(d.data)
	if err != nil {
		return err
	}
	for _, shard := range shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := os.ReadDir(filepath.Join(d.data, shard.Name()))
		if err != nil {
			return err
		}
		for _, name := range names {
			key, isMeta := trimSuffix(name.Name(), metaSuffix)
			if !isMeta {
				// Bytes without metadata are of a file that was being made.
				if _, err := os.Stat(filepath.Join(d.data, shard.Name(), name.Name()+metaSuffix)); err == nil {
					continue
				}
			} else if e, err := recoverEntry(d, Key(key)); err == nil && s.files[e.key] == nil {
				s.files[e.key] = e
				d.used += e.charged
				continue
			} else if err == nil {
				_ = e.close()
			}
			if err := os.RemoveAll(filepath.Join(d.data, shard.Name(), name.Name())); err != nil {
				return fmt.Errorf("remove what does not verify: %w", err)
			}
			_ = os.Remove(filepath.Join(d.data, shard.Name(), key))
		}
	}
	return nil
}
