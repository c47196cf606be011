// Package store keeps bytes on a node: one sparse file for each version of an
// object, whose blocks come in any order. Space is reserved before it is
// written, whole files are evicted, and nothing that does not verify is given
// out.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
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
	ttl        time.Duration
	scrubRate  int64
	moveRate   int64
	every      time.Duration
	lockWait   time.Duration
	buffers    sync.Pool

	// background verifies large files, one at a time, until stop.
	background sync.WaitGroup
	verifier   chan struct{}
	stop       chan struct{}

	// mu guards all below and every directory's accounts. It comes before an
	// entry's mu and a journal's.
	mu     sync.Mutex
	closed bool
	dirs   []*directory // fast tiers first
	files  map[Key]*entry
	stats  Stats
}

// Open takes the directories, recovers what verifies in them, and forgets the rest.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{blockBytes: o.BlockBytes, onChange: o.OnChange, log: o.Logger, lockWait: o.LockWait, policy: o.Policy,
		ttl: o.TTL, scrubRate: o.ScrubBytes, moveRate: o.MoveBytes, every: o.UpkeepEvery, stats: Stats{Evicted: map[Reason]int64{}}, files: map[Key]*entry{},
		verifier: make(chan struct{}, 1), stop: make(chan struct{})}
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
	for level, tier := range o.Tiers {
		for _, d := range tier.Dirs {
			err := s.add(ctx, d, tier, level)
			if isBroken(err) && s.others(o.Tiers, d) {
				s.message = fmt.Sprintf("%s is not used, its disk fails: %v: repair it and restart the worker", d.Path, err)
				s.log.ErrorContext(ctx, "a directory of the cache fails", "message", s.message)
				continue
			}
			if err != nil {
				_ = s.Close()
				return nil, fmt.Errorf("open level %d (%s) of the cache: %w", level, tier.Medium, err)
			}
		}
	}
	s.background.Go(s.upkeep)
	if s.scrubRate > 0 {
		s.background.Go(s.scrub)
	}
	return s, nil
}

// others tells whether there is a directory beside d.
func (s *Store) others(tiers []Tier, d Dir) bool {
	n := len(s.dirs)
	for _, t := range tiers {
		for _, other := range t.Dirs {
			if other.Path != d.Path {
				n++
			}
		}
	}
	return n > 0
}

func (s *Store) add(ctx context.Context, dir Dir, tier Tier, level int) error {
	d, err := openDirectory(ctx, dir, tier, level, s.lockWait)
	if err != nil {
		return err
	}
	recovered, err := d.recover(ctx)
	if err != nil {
		_ = d.close()
		return fmt.Errorf("recover %s: %w", d.path, err)
	}
	s.dirs = append(s.dirs, d)
	if cut := d.fitDisk(); cut != "" {
		s.message = cut
		s.log.WarnContext(ctx, "quota is larger than the disk", "message", cut)
	}
	if s.policy == PolicyTinyLFU {
		if d.choose, err = newChooser(d.limit(true)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	var gone []*entry
	for _, e := range recovered {
		if s.files[e.key] != nil { // a slower tier has it as well
			gone = append(gone, s.forget(e)...)
			continue
		}
		s.files[e.key] = e
		s.setIdle(e)
		d.consider(e)
		if e.pinned {
			s.stats.Pinned++
		}
	}
	// The quota may be smaller than it was: guests go first, then the oldest.
	used := d.used - sum(gone)
	if used > d.quota {
		more := s.evict(d, used-d.quota)
		used, gone = used-sum(more), append(gone, more...)
	}
	for _, pinned := range []bool{false, true} {
		for _, e := range recovered {
			if used > d.quota && !e.dropped && e.pinned == pinned {
				used -= e.charged
				gone = append(gone, s.forget(e)...)
			}
		}
	}
	s.stats.Evicted[ReasonQuota] += int64(len(gone))
	s.mu.Unlock()
	s.bury(gone)
	return nil
}

// Message says what keeps the store from its quotas, or is empty.
func (s *Store) Message() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirs {
		if d.failed != "" {
			return d.failed
		}
		if d.full != "" {
			return d.full
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

// Acquire leases the file of key, making an empty one if there is none. While a
// file is leased it is not evicted. guest says that this worker does not own
// the bytes: guests go first. ErrNoSpace if no directory could ever take a block.
func (s *Store) Acquire(key Key, size int64, guest bool) (*File, error) {
	if !key.valid() || size < 0 {
		return nil, fmt.Errorf("acquire cached file %q of %d bytes: bad key or size", key, size)
	}
	f, err := s.acquire(key, size, guest)
	s.evictChosen()
	return f, err
}

func (s *Store) acquire(key Key, size int64, guest bool) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.files[key]; e != nil {
		if e.size != size {
			return nil, fmt.Errorf("acquire cached file %s: it has %d bytes, not %d", key, e.size, size)
		}
		f, err := s.lease(e)
		if err == nil && e.guest && !guest {
			e.guest = false // an owner's interest outlives a guest's
			e.dir.consider(e)
			err = e.dir.journal.append(recordFile, e.flags(), key, uint64(size), uint64(e.blockBytes))
			if err != nil {
				s.log.Warn("record that a cached file is owned", "key", key, "err", err)
			}
		}
		if f != nil {
			return f, nil
		}
		s.log.Warn("a cached file cannot be opened: it is made anew", "key", key, "err", err)
	}
	f, err := s.create(key, size, guest)
	for range s.dirs { // another directory may work
		if isBroken(err) {
			f, err = s.create(key, size, guest)
		}
	}
	if isFull(err) || isBroken(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return nil, fmt.Errorf("acquire cached file %s of %d bytes: %w", key, size, err)
	}
	return f, nil
}

// create makes an empty file and leases it. Callers hold mu.
func (s *Store) create(key Key, size int64, guest bool) (*File, error) {
	if s.closed {
		return nil, os.ErrClosed
	}
	d := s.place(size, guest)
	if d == nil {
		return nil, ErrNoSpace
	}
	data, err := d.createData(key, size)
	if err != nil {
		s.broken(d, err)
		return nil, err
	}
	if err := d.journal.append(recordFile, flagsOf(guest, false), key, uint64(size), uint64(s.blockBytes)); err != nil {
		s.broken(d, err)
		return nil, errors.Join(err, data.Close(), os.Remove(d.file(key)))
	}
	e := newEntry(d, key, size, s.blockBytes, guest)
	e.data, e.born = data, time.Now()
	s.files[key] = e
	d.consider(e)
	return s.lease(e)
}

// Lookup leases the file of key if there is one.
func (s *Store) Lookup(key Key) (*File, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e == nil {
		return nil, false
	}
	f, err := s.lease(e)
	if err != nil {
		s.log.Warn("a cached file cannot be opened: it is forgotten", "key", key, "err", err)
		return nil, false
	}
	return f, true
}

// lease opens the file if it must; one that cannot be opened is forgotten.
// Callers hold mu.
func (s *Store) lease(e *entry) (*File, error) {
	if e.leases == 0 {
		s.unsetIdle(e)
		if e.data == nil {
			if err := e.open(); err != nil {
				e.dir.used -= e.charged
				e.charged = 0
				s.forget(e)
				return nil, err
			}
		}
		e.promised = max(0, roundUp(e.size)-e.charged)
		e.dir.promised += e.promised
	}
	e.leases++
	e.hits++
	e.used = time.Now()
	e.dir.choose.touch(e.key)
	return &File{store: s, e: e}, nil
}

// unlease ends a lease. What nobody leases holds no descriptor.
func (s *Store) unlease(e *entry) {
	s.mu.Lock()
	if e.leases--; e.leases > 0 {
		s.mu.Unlock()
		return
	}
	if s.closed {
		s.mu.Unlock()
		if data := e.takeData(); data != nil {
			_ = data.Close()
		}
		return
	}
	e.dir.promised -= e.promised
	e.promised = 0
	_, worth := e.change()
	chosen := e.doomed && !e.pinned && !e.guest
	if (!worth || chosen) && !e.dropped {
		s.forget(e)
		if chosen {
			s.stats.Evicted[ReasonQuota]++
		}
	} else {
		chosen = false
	}
	if e.dropped {
		s.mu.Unlock()
		s.bury([]*entry{e})
		if chosen {
			s.tell([]*entry{e})
		}
		return
	}
	s.setIdle(e)
	data := e.takeData()
	s.mu.Unlock()
	if data != nil {
		_ = data.Close()
	}
}

// setIdle and unsetIdle keep the queue of guests that may go. Callers hold mu.
func (s *Store) setIdle(e *entry) {
	if e.guest && !e.pinned {
		e.idle = e.dir.guests.PushBack(e)
		e.dir.guestBytes += e.charged
	}
}

func (s *Store) unsetIdle(e *entry) {
	if e.idle != nil {
		e.dir.guests.Remove(e.idle)
		e.dir.guestBytes -= e.charged
		e.idle = nil
	}
}

// Drop forgets a file. Its bytes go when the last lease ends; whoever holds a
// descriptor keeps reading what it had.
func (s *Store) Drop(key Key) {
	s.mu.Lock()
	e := s.files[key]
	var gone []*entry
	if e != nil {
		gone = s.forget(e)
		s.stats.Evicted[ReasonReplaced]++
	}
	s.mu.Unlock()
	s.bury(gone)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := map[*directory]bool{}
	for _, e := range s.files { // made meanwhile
		busy[e.dir] = true
	}
	for _, d := range s.dirs {
		if busy[d] {
			continue
		}
		if err := d.journal.clear(); err != nil {
			s.log.Error("clear the journal", "path", d.path, "err", err)
		}
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
	for _, e := range s.files {
		if data := e.takeData(); data != nil {
			errs = append(errs, data.Close())
		}
	}
	s.files = map[Key]*entry{}
	for _, d := range s.dirs {
		errs = append(errs, d.close())
	}
	s.dirs = nil
	return errors.Join(errs...)
}

// place chooses the directory for a new file: in the first tier that can take
// the whole of it the one with the most room; where none can, the one with the
// most room of all, if a block fits. Callers hold mu.
func (s *Store) place(size int64, guest bool) *directory {
	var whole, most *directory
	block := roundUp(min(size, s.blockBytes))
	for _, d := range s.dirs {
		if d.failed != "" {
			continue
		}
		room := d.room(guest)
		if room >= roundUp(size) && (whole == nil || whole.level == d.level && room > whole.room(guest)) {
			whole = d
		}
		if room+d.promised >= block && (most == nil || room > most.room(guest)) {
			most = d
		}
	}
	if whole != nil {
		return whole
	}
	return most
}

// reserve charges n bytes of e to its directory, evicting guests if it must.
func (s *Store) reserve(e *entry, n int64) error {
	d := e.dir
	for tried := false; ; tried = true {
		s.mu.Lock()
		var gone []*entry
		if high := d.limit(true); !e.guest && (d.used+n > high && !tried || d.used+n > d.quota) {
			gone = s.evict(d, d.used+n-int64(float64(d.quota)*d.low))
		}
		if len(gone) == 0 && !e.guest && d.used+n > d.quota {
			gone = s.evictCold(d, d.used+n-d.quota)
		}
		if len(gone) == 0 {
			defer s.mu.Unlock()
			if d.failed != "" || d.used+n > d.limit(e.guest) {
				return ErrNoSpace
			}
			s.charge(e, n)
			return nil
		}
		s.mu.Unlock()
		s.bury(gone)
		s.tell(gone)
	}
}

// charge accounts for n more bytes of a leased e. Callers hold mu.
func (s *Store) charge(e *entry, n int64) {
	e.dir.used += n
	e.charged += n
	kept := min(max(n, 0), e.promised)
	e.promised -= kept
	e.dir.promised -= kept
}

func (s *Store) refund(e *entry, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charge(e, -n)
}

// evict forgets guests that nobody leases, the longest unused first, until at
// least n bytes are free once they are buried. Callers hold mu.
func (s *Store) evict(d *directory, n int64) (gone []*entry) {
	for front := d.guests.Front(); front != nil && n > 0; front = d.guests.Front() {
		e := front.Value.(*entry)
		n -= e.charged
		gone = append(gone, s.forget(e)...)
		s.stats.Evicted[ReasonGuest]++
	}
	return gone
}

// makeRoom evicts guests when the disk is full before the quota is.
func (s *Store) makeRoom(d *directory, n int64) bool {
	s.mu.Lock()
	gone := s.evict(d, n)
	s.mu.Unlock()
	s.bury(gone)
	s.tell(gone)
	return len(gone) > 0
}

// diskFull remembers for Message whether the disk had no room.
func (s *Store) diskFull(d *directory, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !full:
		d.full = ""
	case d.full == "":
		d.full = fmt.Sprintf("the disk of %s is full, with %d of the cache's %d bytes used: free or add disk, or lower the quota", d.path, d.used, d.quota)
		s.log.Warn("a disk of the cache is full", "message", d.full)
	}
}

// forget takes e out of the index and unlinks it, and gives it back if it can
// be buried: nobody leases it. Callers hold mu.
func (s *Store) forget(e *entry) []*entry {
	if e.dropped {
		return nil
	}
	e.mu.Lock()
	e.dropped = true
	e.mu.Unlock()
	s.unsetIdle(e)
	e.dir.forgo(e)
	if e.pinned && s.files[e.key] == e {
		s.stats.Pinned--
	}
	if s.files[e.key] == e {
		delete(s.files, e.key)
	}
	if err := e.dir.journal.append(recordDrop, 0, e.key, 0, 0); err != nil {
		s.log.Error("record that a cached file is dropped", "key", e.key, "err", err)
	}
	if e.leases == 0 && e.data == nil {
		// Freeing a large file takes long: that is for bury, without the lock.
		if f, err := os.Open(e.dir.file(e.key)); err == nil {
			e.data = f
		}
	}
	if err := os.Remove(e.dir.file(e.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("unlink a cached file", "key", e.key, "err", err)
	}
	if e.leases > 0 {
		return nil
	}
	return []*entry{e}
}

// bury frees the bytes of dropped files and only then their account. Callers
// do not hold mu.
func (s *Store) bury(gone []*entry) {
	for _, e := range gone {
		if data := e.takeData(); data != nil {
			if err := data.Close(); err != nil {
				s.log.Error("close a cached file", "key", e.key, "err", err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range gone {
		e.dir.used -= e.charged
		e.charged = 0
	}
}

func (s *Store) tell(dropped []*entry) {
	for _, e := range dropped {
		s.onChange(Change{Key: e.key, Size: e.size, Dropped: true})
	}
}

func sum(entries []*entry) (n int64) {
	for _, e := range entries {
		n += e.charged
	}
	return n
}

// verifyLater checks the recovered blocks of a file in the background.
func (s *Store) verifyLater(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || e.verifying || e.dropped {
		return
	}
	f, err := s.lease(e)
	if err != nil {
		return
	}
	e.verifying = true
	s.background.Go(func() {
		defer f.Close()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			e.verifying = false
		}()
		select {
		case s.verifier <- struct{}{}:
		case <-s.stop:
			return
		}
		defer func() { <-s.verifier }()
		for block := range e.blocks {
			select {
			case <-s.stop:
				return
			default:
				f.Has(block)
			}
		}
	})
}

// buffer has n bytes, until done.
func (s *Store) buffer(n int64) (p []byte, done func()) {
	if n < s.blockBytes/4 || n > s.blockBytes {
		return make([]byte, n), func() {}
	}
	b := s.buffers.Get().(*[]byte)
	return (*b)[:n], func() { s.buffers.Put(b) }
}
