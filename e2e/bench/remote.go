package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	cachepeers "github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// remote reads what another node holds: over the data plane as clients and
// workers speak it, and through a mount.
func remote(ctx context.Context, b *Bench) error {
	size := b.of(1 << 30)
	if err := write(b.source("remote/f"), size, 1); err != nil {
		return err
	}
	c, err := b.newCache(ctx, "remote", cacheConfig{mount: localMount("remote"), workers: 1, quota: "4Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.load(ctx); err != nil {
		return err
	}
	plain, err := largest(c.store(0))
	if err != nil {
		return err
	}
	raw, stop, err := b.rawServer(ctx, plain)
	if err != nil {
		return err
	}
	defer stop()
	wired, stop, err := c.overWire(ctx, size)
	if err != nil {
		return err
	}
	defer stop()
	for _, w := range []work{wired, raw} { // connections
		if _, err := w(); err != nil {
			return err
		}
	}
	p, err := b.inTurn(side{work: wired}, side{work: raw})
	if err != nil {
		return err
	}
	b.add(p.ratio("remote/wire/4MiB/1-stream", aim(0.8), gigabytes))

	// Through FUSE: a mount whose node has no worker. It keeps no copy, and the
	// kernel's pages are dropped before each run.
	mnt, err := c.mount(ctx, -1)
	if err != nil {
		return err
	}
	through := filepath.Join(mnt, "f")
	idle := c.cpu()
	p, err = b.inTurn(side{sequential(through, 1, 1<<20), func() error { return dropCache(through) }}, side{work: raw})
	if err != nil {
		return err
	}
	b.add(p.ratio("remote/mount/seq1M", nil, gigabytes))
	var app time.Duration
	for _, d := range p.a {
		app += d.CPU
	}
	spent := (c.cpu() - idle + app).Seconds() / (float64(size) * float64(b.Runs) / 1e9)
	b.add(once("remote/mount/cpu-per-GB", "s/GB", spent, aim(0.8), lower, "reader, client and worker"))
	return nil
}

// overWire reads the file from its owner in ranges of 4 MiB.
func (c *cache) overWire(ctx context.Context, size int64) (work, func(), error) {
	conn, err := wire.DialMaster(c.address)
	if err != nil {
		return nil, nil, err
	}
	master := wirepb.NewMasterClient(conn)
	root, err := master.Lookup(ctx, &wirepb.LookupRequest{Ino: 1, Name: "f"})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	watch, cancel := context.WithCancel(ctx)
	var view cachepeers.View
	events, err := master.Watch(watch, &wirepb.WatchRequest{Client: "bench"})
	for err == nil && view.Count() == 0 {
		var e *wirepb.WatchEvent
		if e, err = events.Recv(); err == nil && e.GetMembers() != nil {
			view.Set(e.GetMembers())
		}
	}
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, conn.Close())
	}
	client := wire.NewClient(wire.ClientOptions{})
	o := root.GetObject()
	read := func() (done, error) {
		return measured(1, func(int) (bytes, ops int64, _ error) {
			p := make([]byte, 4<<20)
			for off := int64(0); off < size; off += int64(len(p)) {
				p = p[:min(int64(cap(p)), size-off)]
				owners := view.Owners(o.GetKey(), off)
				if len(owners) == 0 {
					return bytes, ops, errors.New("nobody owns the file")
				}
				if err := client.Fetch(ctx, owners[0].GetAddress(), wire.Range{Object: o, Off: off, N: int64(len(p))}, p); err != nil {
					return bytes, ops, err
				}
				bytes, ops = bytes+int64(len(p)), ops+1
			}
			return bytes, ops, nil
		})
	}
	return read, func() {
		cancel()
		client.Close()
		_ = conn.Close()
	}, nil
}

// rawEnv names the file that this program serves instead of measuring.
const rawEnv = "MILLRACE_BENCH_RAW"

// rawServer serves ranges of a file by nothing but sendfile, in a process of
// its own as a worker is, and reads them over one connection.
func (b *Bench) rawServer(ctx context.Context, file string) (work, func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), rawEnv+"="+file, rawEnv+"_ADDRESS="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	end := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	var conn net.Conn
	err = until(ctx, "the raw server", 10*time.Second, func() (bool, error) {
		var err error
		conn, err = net.Dial("tcp", address)
		return err == nil, err
	})
	if err != nil {
		end()
		return nil, nil, err
	}
	st, err := os.Stat(file)
	if err != nil {
		end()
		return nil, nil, err
	}
	read := func() (done, error) {
		return measured(1, func(int) (bytes, ops int64, _ error) {
			p := make([]byte, 4<<20)
			for off := int64(0); off < st.Size(); off += int64(cap(p)) {
				n := min(int64(cap(p)), st.Size()-off)
				var head [16]byte
				binary.BigEndian.PutUint64(head[:], uint64(off))
				binary.BigEndian.PutUint64(head[8:], uint64(n))
				if _, err := conn.Write(head[:]); err != nil {
					return bytes, ops, err
				}
				if _, err := io.ReadFull(conn, p[:n]); err != nil {
					return bytes, ops, err
				}
				bytes, ops = bytes+n, ops+1
			}
			return bytes, ops, nil
		})
	}
	return read, func() {
		_ = conn.Close()
		end()
	}, nil
}

// ServeRaw is the raw server; it is false where this process is none.
func ServeRaw() (bool, error) {
	file := os.Getenv(rawEnv)
	if file == "" {
		return false, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return true, err
	}
	defer f.Close()
	l, err := net.Listen("tcp", os.Getenv(rawEnv+"_ADDRESS"))
	if err != nil {
		return true, err
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		return true, err
	}
	defer conn.Close()
	for {
		var head [16]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return true, nil // the reader has gone
		}
		if _, err := f.Seek(int64(binary.BigEndian.Uint64(head[:])), io.SeekStart); err != nil {
			return true, err
		}
		n := int64(binary.BigEndian.Uint64(head[8:]))
		if sent, err := io.Copy(conn, &io.LimitedReader{R: f, N: n}); err != nil || sent != n {
			return true, fmt.Errorf("send %d bytes: %d sent: %w", n, sent, err)
		}
	}
}
