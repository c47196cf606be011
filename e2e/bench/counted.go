package bench

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/apis/contract"
)

// counted is an S3 server with n small objects behind a proxy that counts what
// it gives: what a cache says of itself is not taken on trust.
type counted struct {
	store  *objectStore
	bucket string
	mount  contract.MountConfig

	listener net.Listener
	bytes    atomic.Int64
	wg       sync.WaitGroup
}

// newCounted starts a server with n objects of size bytes.
func (b *Bench) newCounted(ctx context.Context, n, size int) (_ *counted, err error) {
	c := &counted{bucket: "counted"}
	if c.store, err = b.newObjectStore(ctx); err != nil {
		return nil, err
	}
	if err = c.store.bucket(ctx, c.bucket); err == nil {
		err = c.store.put(ctx, c.bucket, n, func(i int) (string, io.Reader) { return smallName(i), smallBody(i, size) })
	}
	if err == nil {
		c.mount, err = c.store.mount(c.bucket)
	}
	if err == nil {
		c.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		c.store.stop()
		return nil, err
	}
	c.mount.Options["endpoint"] = "http://" + c.listener.Addr().String()
	c.wg.Go(c.serve)
	return c, nil
}

// taken gives the bytes that were read since it was last asked, with headers.
func (c *counted) taken() int64 { return c.bytes.Swap(0) }

func (c *counted) serve() {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.store.endpoint[len("http://"):])
		if err != nil {
			_ = in.Close()
			continue
		}
		c.wg.Go(func() {
			_, _ = io.Copy(out, in)
			_ = out.Close()
		})
		c.wg.Go(func() {
			_, _ = io.Copy(io.MultiWriter(in, counter{c}), out)
			_ = in.Close()
		})
	}
}

// counter is a Writer that counts.
type counter struct{ c *counted }

func (w counter) Write(p []byte) (int, error) {
	w.c.bytes.Add(int64(len(p)))
	return len(p), nil
}

func (c *counted) close() {
	_ = c.listener.Close()
	c.store.stop() // which ends its connections
	c.wg.Wait()
}
