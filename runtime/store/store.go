// Package store keeps bytes on a node: one sparse file for each version of an
// object, whose blocks come in any order. Space is reserved before it is
// written, whole files are evicted, and nothing that does not verify is given
// out.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoSpace: the bytes do not fit, and nothing that may go is left to evict.
var ErrNoSpace = errors.New("no space in the cache")

// DefaultBlockBytes is the unit of presence.
const DefaultBlockBytes = 4 << 20

// Key names a cached file: 32 hex digits that stand for one version of one object.
type Key string

// KeyOf is a key of 16 bytes as text.
func KeyOf(raw [16]byte) Key { return rawKey(raw).key() }

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

// Tier is a level of the store. High and Low are fractions of a quota: guests
// are let in up to High; owners' blocks beyond it evict guests down to Low, and
// are let in up to the quota. Nothing evicts the owners' files: of data that is
// read once an epoch, keeping what came first has the most hits.
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
	// Policy is PolicyUniform if empty.
	Policy Policy
	// TTL is after how long a file that is neither leased nor pinned goes; 0 is never.
	TTL time.Duration
	// ScrubBytes a second are read again and compared with their checksums; 0 is none.
	ScrubBytes int64
	// MoveBytes a second are moved between tiers; 0 is none.
	MoveBytes int64
	// UpkeepEvery is how often TTL, tiers and failed directories are looked at;
	// a second if 0.
	UpkeepEvery time.Duration
	// LockWait bounds the wait for a predecessor that still holds a directory.
	LockWait time.Duration
}

// Store is the cache of one worker. It is safe for concurrent use.
type Store struct {
	blockBytes int64
	onChange   func(Change)
	log        *slog.Logger
	message    string
	policy     Policy
	// ttl in nanoseconds, and rates in bytes a second, may change.
	ttl, scrubRate, moveRate atomic.Int64
	every                    time.Duration
	lockWait                 time.Duration
	buffers                  sync.Pool

	// background verifies large files, one at a time, until stop.
	background sync.WaitGroup
	verifier   chan struct{}
	stop       chan struct{}

	// mu guards all below and every directory's accounts. It comes before an
	// entry's mu and a journal's.
	mu     sync.Mutex
	closed bool
	dirs   []*directory // fast tiers first
	index  index
	open   map[uint32]*entry // those that are leased, by the numbers of their records
	stats  Stats
}

// Open takes the directories, recovers what verifies in them, and forgets the rest.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{blockBytes: o.BlockBytes, onChange: o.OnChange, log: o.Logger, lockWait: o.LockWait, policy: o.Policy,
		every: o.UpkeepEvery, stats: Stats{Evicted: map[Reason]int64{}}, open: map[uint32]*entry{},
		verifier: make(chan struct{}, 1), stop: make(chan struct{})}
	s.setRates(o)
	if s.blockBytes == 0 {
		s.blockBytes = DefaultBlockBytes
	}
	if s.onChange == nil {
		s.onChange = func(Change) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.buffers.New = func() any {
		b := make([]byte, s.blockBytes)
		return &b
	}
	if s.every <= 0 {
		s.every = time.Second
	}
	if err := s.policy.check(); err != nil {
		return nil, err
	}
	if err := s.openAll(ctx, o.Tiers); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.background.Go(s.upkeep)
	s.background.Go(s.scrub)
	return s, nil
}

// opening is a directory while it is opened.
type opening struct {
	Dir
	tier  Tier
	level int

	d    *directory
	past *past
	err  error
}

// openAll opens the directories of all tiers at once: they may be on as many disks.
func (s *Store) openAll(ctx context.Context, tiers []Tier) error {
	var all []*opening
	for level, tier := range tiers {
		for _, d := range tier.Dirs {
			all = append(all, &opening{Dir: d, tier: tier, level: level})
		}
	}
	if len(all) > maxDirs {
		return fmt.Errorf("open the cache: %d directories are too many, %d are the most", len(all), maxDirs)
	}
	var wg sync.WaitGroup
	for _, o := range all {
		wg.Go(func() {
			if o.d, o.err = openDirectory(ctx, o.Dir, o.tier, o.level, s.lockWait); o.err != nil {
				return
			}
			if o.past, o.err = o.d.recover(ctx); o.err != nil {
				o.err = fmt.Errorf("recover %s: %w", o.Path, errors.Join(o.err, o.d.close()))
			}
		})
	}
	wg.Wait()
	var failed error
	files := 0
	for _, o := range all {
		switch {
		case o.err == nil:
			o.d.number, o.d.guests.x = uint8(len(s.dirs)), &s.index
			s.dirs = append(s.dirs, o.d)
			files += o.past.count()
		case isBroken(o.err) && len(all) > 1:
			s.message = fmt.Sprintf("%s is not used, its disk fails: %v: repair it and restart the worker", o.Path, o.err)
			s.log.ErrorContext(ctx, "a directory of the cache fails", "message", s.message)
		case failed == nil:
			failed = fmt.Errorf("open level %d (%s) of the cache: %w", o.level, o.tier.Medium, o.err)
		}
	}
	if failed != nil {
		return failed
	}
	if len(s.dirs) == 0 && len(all) > 0 {
		return fmt.Errorf("open level %d (%s) of the cache: %w", all[0].level, all[0].tier.Medium, all[0].err)
	}
	s.index.grow(files)
	if _, ok := s.index.unit(s.blockBytes); !ok {
		return fmt.Errorf("blocks of %d bytes cannot be kept", s.blockBytes)
	}
	for _, o := range all {
		if o.err == nil {
			if err := s.adopt(ctx, o.d, o.past); err != nil {
				return err
			}
			o.past = nil
		}
	}
	if files > manyFiles {
		debug.FreeOSMemory() // what the journals took goes back at once
	}
	return nil
}

// manyFiles is from where on reading the journals takes memory worth speaking of.
const manyFiles = 100_000

// adopt takes what was recovered of a directory into the index.
func (s *Store) adopt(ctx context.Context, d *directory, p *past) (err error) {
	for _, m := range p.live() {
		d.used += m.charged
	}
	if d.cut = d.fitDisk(); d.cut != "" {
		s.log.WarnContext(ctx, "quota is larger than the disk", "message", d.cut)
	}
	if s.policy == PolicyTinyLFU {
		if d.choose, err = newChooser(d.limit(true)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	recovered := p.sorted()
	gone := s.enter(d, p, recovered)
	// The quota may be smaller than it was: guests go first, then the oldest.
	used := d.used - sum(gone)
	evicted := len(gone)
	if used > d.quota {
		more := s.evict(d, used-d.quota)
		used, gone, evicted = used-sum(more), append(gone, more...), evicted+len(more)
	}
	for _, pinned := range []bool{false, true} {
		for _, at := range recovered {
			if used <= d.quota {
				break
			}
			id := s.index.ids[p.files[at].key]
			if id == 0 || s.index.at(id).dir != d.number || s.index.at(id).is(isPinned) != pinned {
				continue
			}
			e := s.entry(id)
			used -= e.charged
			gone = append(gone, s.forget(e)...)
		}
	}
	s.stats.Evicted[ReasonQuota] += int64(len(gone) - evicted)
	s.mu.Unlock()
	s.bury(gone)
	return nil
}

// enter makes records of what was recovered, and gives those back that go: a
// faster tier has the file as well. Callers hold mu.
func (s *Store) enter(d *directory, p *past, recovered []uint32) (gone []*entry) {
	for _, at := range recovered {
		m := &p.files[at]
		twin := s.index.ids[m.key]
		id, r := s.index.add(m.key)
		unit, ok := s.index.unit(m.blockBytes)
		r.size, r.charged, r.born, r.used, r.dir, r.unit = m.size, m.charged, m.born, m.born, d.number, unit
		r.set(isOld, true)
		r.set(isGuest, m.flags&flagGuest != 0)
		r.set(isPinned, m.flags&flagPinned != 0)
		if r.is(isPinned) {
			s.stats.Pinned++
		}
		switch {
		case !ok:
		case m.there:
			r.crc = m.crc
			r.set(hasBlock|isDoubted, true)
		case m.count() > 1:
			s.index.keep(id, p.blocks(at))
		}
		if twin != 0 || !ok {
			kept := twin
			if twin != 0 && ok && s.index.isWhole(id) && !s.index.isWhole(twin) {
				kept = id // a process was killed while it moved the file
				id = twin
			}
			gone = append(gone, s.forget(s.entry(id))...)
			if kept != 0 {
				s.index.ids[m.key] = kept
			}
			if kept == twin {
				continue
			}
			id = kept
		}
		s.setIdle(id)
		d.consider(m.key, r)
	}
	return gone
}

// Message says what keeps the store from its quotas, or is empty.
func (s *Store) Message() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirs {
		if d.failed != "" {
			return d.failed
		}
		if said := cmp.Or(d.full, d.cut); said != "" {
			return said
		}
	}
	return s.message
}

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
	// PromisedBytes is what files in use may still take.
	PromisedBytes int64
	// Failed says that the directory is out of service.
	Failed bool
}

// Tiers gives each directory's account, fast tiers first.
func (s *Store) Tiers() []TierUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]TierUsage, len(s.dirs))
	for i, d := range s.dirs {
		out[i] = TierUsage{Medium: d.medium, Path: d.path, UsedBytes: d.used, CapacityBytes: d.quota, PromisedBytes: d.promised, Failed: d.failed != ""}
	}
	return out
}

// Close lets go of the directories. Files stay for the next Open.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	s.mu.Unlock()
	s.background.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, e := range s.open {
		if data := e.takeData(); data != nil {
			errs = append(errs, data.Close())
		}
	}
	s.open, s.index = map[uint32]*entry{}, index{}
	for _, d := range s.dirs {
		errs = append(errs, d.close())
	}
	s.dirs = nil
	return errors.Join(errs...)
}
