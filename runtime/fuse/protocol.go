package fuse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// This file is all that knows of go-fuse's ProtocolServer, which is declared
// experimental, and of the bytes on /dev/fuse (linux/fuse.h).

const (
	opOther       = 0 // no request has this number
	opLookup      = 1
	opGetAttr     = 3
	opReadLink    = 5
	opStatFS      = 17
	opInit        = 26
	opOpen        = 14
	opRead        = 15
	opOpenDir     = 27
	opReadDir     = 28
	opInterrupt   = 36
	opReadDirPlus = 44

	notifyInvalInode = 2
	notifyInvalEntry = 3
)

const (
	inHeaderBytes  = int(unsafe.Sizeof(gofuse.InHeader{}))
	outHeaderBytes = int(unsafe.Sizeof(gofuse.OutHeader{}))

	// maxWrite is what the kernel is told, so that it is content with a small
	// buffer for requests: nobody writes here.
	maxWrite     = 4096
	requestBytes = 64 << 10
	// replyBytes hold every reply but those that say their size.
	replyBytes = 64<<10 + 4096

	// idleLoops wait for a request at any time: four beat one and beat many.
	// Further ones come when all are busy, for a request may take as long as
	// the source does and an INTERRUPT must not wait behind it.
	idleLoops = 4
	maxLoops  = 128

	// interruptGrace is how long a request goes on after the kernel has
	// interrupted it. Any signal interrupts, a profiler's timer as well as a
	// kill; a request that gave up at once would be made again and again, and
	// few programs expect EINTR of a file. A killed process waits this long.
	interruptGrace = time.Second
)

// protocol reads requests from the device, has them answered, and tells the
// kernel what to forget.
type protocol struct {
	dev    Device
	log    *slog.Logger
	server *gofuse.ProtocolServer
	// undelivered is called with the node and handle of an OPEN or OPENDIR
	// that was answered when nobody waited any more: no RELEASE follows.
	undelivered func(op uint32, node, fh uint64)
	// loans has the bytes of READs that are not in their reply.
	loans *loans
	// took is called with the time that an answer took.
	took func(op uint32, d time.Duration)

	large sync.Pool // *[]byte of maxRead and header, for READ
	wait  sync.WaitGroup
	idle  atomic.Int32

	mu    sync.Mutex
	loops map[*loop]struct{}
}

// loop is one goroutine that reads and answers.
type loop struct {
	unique atomic.Uint64 // the request in hand, 0 for none
}

func newProtocol(dev Device, fs gofuse.RawFileSystem, log *slog.Logger) *protocol {
	p := &protocol{dev: dev, log: log, loops: map[*loop]struct{}{}}
	p.large.New = func() any { b := make([]byte, maxRead+replyBytes); return &b }
	p.server = gofuse.NewProtocolServer(fs, &gofuse.MountOptions{
		MaxWrite:      maxRead, // it derives the pages of a READ from this
		MaxReadAhead:  maxRead,
		MaxBackground: 64,
		MaxStackDepth: 1,
		DisableXAttrs: true,
		// Entries always come with attributes. With READDIRPLUS_AUTO who reads a
		// whole directory before he looks at its files (ls, du, os.ReadDir) gets
		// them for the first reply only, and then by a LOOKUP for each.
		ExtraCapabilities: gofuse.CAP_CACHE_SYMLINKS | gofuse.CAP_READDIRPLUS,
		Logger:            slogLogger(log),
		PanicHandler: func(v any) gofuse.Status {
			log.Error("a FUSE request panicked", "panic", v)
			return gofuse.EIO
		},
	})
	return p
}

// start begins to answer.
func (p *protocol) start() {
	for range idleLoops {
		p.spawn()
	}
}

func (p *protocol) spawn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.loops) >= maxLoops {
		return
	}
	l := &loop{}
	p.loops[l] = struct{}{}
	p.wait.Add(1)
	p.idle.Add(1)
	go p.run(l)
}

// waitAgain counts a loop among those that wait, unless enough of them do. idle
// never counts one that is about to end: whoever takes the last waiting one away
// must see that, and start another.
func (p *protocol) waitAgain(enough int32) bool {
	for {
		waiting := p.idle.Load()
		if waiting >= enough {
			return false
		}
		if p.idle.CompareAndSwap(waiting, waiting+1) {
			return true
		}
	}
}

// run answers requests until the mount is gone or enough others wait.
func (p *protocol) run(l *loop) {
	defer p.wait.Done()
	defer func() {
		p.mu.Lock()
		delete(p.loops, l)
		p.mu.Unlock()
	}()
	in, reply := make([]byte, requestBytes), make([]byte, replyBytes)
	for {
		n, err := p.dev.Read(in)
		switch {
		case err == nil:
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOENT):
			continue // ENOENT: the request was taken back
		default:
			p.idle.Add(-1)
			if !errors.Is(err, syscall.ENODEV) {
				p.log.Error("read from the FUSE device", "err", err)
			}
			return
		}
		if n < inHeaderBytes {
			continue
		}
		if p.idle.Add(-1) == 0 {
			p.spawn()
		}
		p.answer(l, in[:n], reply)
		if !p.waitAgain(idleLoops) {
			return
		}
	}
}

func (p *protocol) answer(l *loop, in, reply []byte) {
	h := (*gofuse.InHeader)(unsafe.Pointer(&in[0]))
	if h.Opcode == opInterrupt {
		in := bytes.Clone(in)
		time.AfterFunc(interruptGrace, func() { p.interrupt(in) })
		return // an INTERRUPT has no reply
	}
	l.unique.Store(h.Unique)
	defer l.unique.Store(0)
	defer func(op uint32, began time.Time) { p.took(op, time.Since(began)) }(h.Opcode, time.Now())

	if need := replySize(h.Opcode, in); need > len(reply) {
		b := p.large.Get().(*[]byte)
		defer p.large.Put(b)
		reply = *b
	}
	n, status := p.server.HandleRequest([][]byte{in}, [][]byte{reply})
	parts := [][]byte{reply[:n]}
	if given := p.loans.take(h.Unique); given != nil {
		defer given.done()
		if n == outHeaderBytes+given.n {
			parts = append([][]byte{reply[:outHeaderBytes]}, given.parts...)
		}
	}
	if n == 0 {
		if !status.Ok() {
			p.log.Warn("drop a FUSE request", "opcode", h.Opcode, "status", status)
		}
		return
	}
	if h.Opcode == opInit {
		capMaxWrite(reply[:n])
	}
	_, err := p.dev.Write(parts...)
	switch {
	case err == nil, errors.Is(err, syscall.ENODEV):
	case errors.Is(err, syscall.ENOENT): // interrupted: nobody waits for the reply
		out := (*gofuse.OutHeader)(unsafe.Pointer(&reply[0]))
		if (h.Opcode == opOpen || h.Opcode == opOpenDir) && out.Status == 0 {
			open := (*gofuse.OpenOut)(unsafe.Pointer(&reply[outHeaderBytes]))
			p.undelivered(h.Opcode, h.NodeId, open.Fh)
		}
	default:
		p.log.Warn("write to the FUSE device", "opcode", h.Opcode, "err", err)
	}
}

// replySize is how many bytes the reply may have.
func replySize(op uint32, in []byte) int {
	switch op {
	case opRead, opReadDir, opReadDirPlus:
		if len(in) >= int(unsafe.Sizeof(gofuse.ReadIn{})) {
			return int((*gofuse.ReadIn)(unsafe.Pointer(&in[0])).Size) + outHeaderBytes
		}
	}
	return 0
}

// capMaxWrite tells the kernel the size of a write that our buffers hold.
func capMaxWrite(reply []byte) {
	if len(reply) >= outHeaderBytes+int(unsafe.Sizeof(gofuse.InitOut{})) {
		(*gofuse.InitOut)(unsafe.Pointer(&reply[outHeaderBytes])).MaxWrite = maxWrite
	}
}

// interruptAll interrupts every request in hand, in the kernel's own words.
func (p *protocol) interruptAll() {
	p.mu.Lock()
	var uniques []uint64
	for l := range p.loops {
		if u := l.unique.Load(); u != 0 {
			uniques = append(uniques, u)
		}
	}
	p.mu.Unlock()
	for _, u := range uniques {
		var in gofuse.InterruptIn
		in.Length, in.Opcode, in.InHeader.Unique, in.Unique = uint32(unsafe.Sizeof(in)), opInterrupt, u|1, u
		p.interrupt(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))
	}
}

// interrupt cancels the request that an INTERRUPT names, if it is still in hand.
func (p *protocol) interrupt(in []byte) {
	_, _ = p.server.HandleRequest([][]byte{in}, [][]byte{make([]byte, 256)})
}

// invalInode makes the kernel forget the attributes of a node, and its pages
// (of a directory: its listing) from off on; off < 0 leaves those. It waits for
// READs of the node, so it must not be called by a loop.
func (p *protocol) invalInode(id uint64, off int64) error {
	b := make([]byte, outHeaderBytes, outHeaderBytes+24)
	b = binary.NativeEndian.AppendUint64(b, id)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint64(b, 0) // to the end
	return p.notify(notifyInvalInode, b)
}

// invalEntry makes the kernel forget a name, or that there is no such name.
func (p *protocol) invalEntry(parent uint64, name string) error {
	b := make([]byte, outHeaderBytes, outHeaderBytes+16+len(name)+1)
	b = binary.NativeEndian.AppendUint64(b, parent)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(append(b, name...), 0)
	return p.notify(notifyInvalEntry, b)
}

func (p *protocol) notify(code int32, b []byte) error {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], uint32(code))
	switch _, err := p.dev.Write(b); {
	case err == nil, errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV):
		return nil // ENOENT: the kernel does not remember it
	default:
		return fmt.Errorf("notify the kernel: %w", err)
	}
}

// slogLogger hands go-fuse's own remarks on.
func slogLogger(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
