package reader

import "sync"

// Units in which remote bytes are fetched. Whole blocks suit who reads on;
// someone who jumps about would throw most of a block away.
const (
	blockBytes  = 4 << 20
	mediumBytes = 1 << 20
	smallBytes  = 64 << 10
)

const (
	// steadyBytes read in a row make a sequential reader.
	steadyBytes = 512 << 10
	// maxAhead bounds what is fetched ahead of one reader, in bytes.
	maxAhead = 8 * blockBytes
	// aheadFactor: so many times what was read in a row is fetched ahead.
	aheadFactor = 4
	// maxStreams is how many readers at different places of one file are told
	// apart; one more takes the place of the one that read longest ago.
	maxStreams = 32
	// sureSteps of the same length make a strided reader; maxSteps are fetched ahead.
	sureSteps, maxSteps = 2, 8
)

// pattern recognises how a file is read: on and on, in even steps, or anywhere.
// Several readers share it, and the requests of one may overtake each other.
type pattern struct {
	mu      sync.Mutex
	streams []stream
	reads   uint64
	last    int64 // where the last read that went on with none began
	stride  int64 // and how far from the one before
	steps   int   // how often the stride was the same
	limit   int64 // bytes ahead of a reader at most; 0 for maxAhead
}

// stream is one sequential reader, as far as it looks like one.
type stream struct {
	next int64  // where it goes on
	run  int64  // bytes it has read in a row
	used uint64 // number of its last read
}

// span is a range of a file.
type span struct{ off, n int64 }

// plan is how a read is to be served.
type plan struct {
	unit      int64  // in which missing bytes are fetched
	ahead     []span // what will be wanted next
	aheadUnit int64
	strided   bool
}

// saw takes in a read of n bytes at off of a file.
func (p *pattern) saw(off, n, size int64) plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	s, known := p.streamLocked(off, n)
	s.used = p.reads
	if end := off + n; end > s.next {
		s.run += end - max(s.next, off)
		s.next = end
	}
	if !known {
		if step := off - p.last; step == p.stride {
			p.steps++
		} else {
			p.stride, p.steps = step, 0
		}
		p.last = off
	}
	at := plan{unit: unitOf(off, n, size)}
	switch {
	case (known || off == 0) && s.run >= steadyBytes:
		at.unit, at.aheadUnit = blockBytes, blockBytes
		from := (s.next + blockBytes - 1) / blockBytes * blockBytes
		to := min(s.next+min(aheadFactor*s.run, p.limitLocked()), size)
		if from < to {
			at.ahead = []span{{from, to - from}}
		}
	case !known && p.steps >= sureSteps && (p.stride > n || p.stride < -n):
		at.strided, at.aheadUnit = true, at.unit
		for i := range min(p.steps-sureSteps+1, maxSteps) {
			if next := off + int64(i+1)*p.stride; next >= 0 && next < size {
				at.ahead = append(at.ahead, span{next, min(n, size-next)})
			}
		}
	}
	return at
}

// streamLocked is the reader that a read belongs to, a new one if to none.
func (p *pattern) streamLocked(off, n int64) (_ *stream, known bool) {
	oldest := 0
	for i := range p.streams {
		s := &p.streams[i]
		if off >= s.next-2*n && off <= s.next+2*n { // requests overtake each other
			return s, true
		}
		if s.used < p.streams[oldest].used {
			oldest = i
		}
	}
	if len(p.streams) < maxStreams {
		oldest = len(p.streams)
		p.streams = append(p.streams, stream{})
	}
	p.streams[oldest] = stream{next: off}
	return &p.streams[oldest], false
}

func (p *pattern) limitLocked() int64 {
	if p.limit == 0 {
		return maxAhead
	}
	return p.limit
}

// wasted says that bytes were fetched ahead in vain, or that there was no room
// for them: less next time.
func (p *pattern) wasted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = max(p.limitLocked()/2, blockBytes)
}

// used says that bytes fetched ahead were read: a little more next time.
func (p *pattern) used() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = min(p.limitLocked()+smallBytes, maxAhead)
}

// unitOf is the unit for who may not read on. The start of a file and small
// files are read on more often than not.
func unitOf(off, n, size int64) int64 {
	if n <= 4*smallBytes && off > 0 && size > blockBytes {
		return smallBytes
	}
	return mediumBytes
}
