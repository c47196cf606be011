package reader

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
)

var _ fuse.Lender = (*file)(nil)

// Lend implements fuse.Lender: a range of the copy on this node is mapped, and
// one that came from another node lies in its block.
func (f *file) Lend(ctx context.Context, off, n int64) (parts [][]byte, done func(), err error) {
	local, err := f.here(ctx, off, n)
	switch {
	case err == nil:
		p, unmap := mapRange(local.File(), off, n)
		if p == nil {
			return nil, nil, nil
		}
		f.r.m.local(n)
		return [][]byte{p}, unmap, nil
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	}
	// Who held one block and waited for room for another could wait for ever.
	if off/blockBytes != (off+n-1)/blockBytes {
		return nil, nil, nil
	}
	b, err := f.block(ctx, off, f.startRemote(off, n))
	if err != nil {
		if stale(err) {
			f.r.refreshSoon(f.ino)
		}
		return nil, nil, err
	}
	p := b.data[off%b.key.unit:]
	if int64(len(p)) < n { // it came in smaller units
		f.r.blocks.put(b)
		return nil, nil, nil
	}
	return [][]byte{p[:n]}, func() { f.r.blocks.put(b) }, nil
}

// mapRange maps a range of a file whose bytes never change, nil if its pages
// cannot be had. A page that is lost afterwards and cannot be read again is an
// error for whom the kernel reads it.
func mapRange(f *os.File, off, n int64) (p []byte, unmap func()) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil
	}
	before := off % int64(os.Getpagesize())
	var m []byte
	if errControl := raw.Control(func(fd uintptr) {
		m, err = unix.Mmap(int(fd), off-before, int(before+n), unix.PROT_READ, unix.MAP_SHARED)
	}); errControl != nil || err != nil {
		return nil, nil
	}
	// Read ahead as read(2) does, and all at once: a fault for each page costs
	// more than a copy, and here a disk's error is told.
	_ = unix.Madvise(m, unix.MADV_SEQUENTIAL)
	if err := unix.Madvise(m, unix.MADV_POPULATE_READ); err != nil {
		_ = unix.Munmap(m)
		return nil, nil
	}
	return m[before:], func() { _ = unix.Munmap(m) }
}
