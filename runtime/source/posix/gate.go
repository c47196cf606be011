package posix

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// maxStuck is how many system calls a mount may hold: each is a thread that
// nobody can free while its server is silent.
const maxStuck = 64

// gate bounds the calls into a file system that another process or machine
// serves, in number and in how long anyone waits for one. A nil gate lets
// everything through: a local file system needs none.
type gate struct {
	slots   chan struct{}
	timeout time.Duration
}

func newGate(timeout time.Duration) *gate {
	return &gate{slots: make(chan struct{}, maxStuck), timeout: timeout}
}

// call makes a system call through the gate. Who gave up waiting for it does not
// get its result: late is then called with it, when and if the call returns.
// Memory that the call writes must not be the caller's.
func call[T any](ctx context.Context, g *gate, f func() (T, error), late func(T)) (T, error) {
	return callOn(ctx, g, nil, f, late)
}

// callOn is a call that needs d to stay open for as long as it takes, which may
// be longer than its caller waits.
func callOn[T any](ctx context.Context, g *gate, d *handle, f func() (T, error), late func(T)) (T, error) {
	if g == nil {
		return f()
	}
	var none T
	timer := time.NewTimer(g.timeout)
	defer timer.Stop()
	silent := func() error {
		return fmt.Errorf("%w: the file system does not answer for %v", source.ErrUnavailable, g.timeout)
	}
	select {
	case g.slots <- struct{}{}:
	case <-timer.C:
		return none, silent()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	gone := make(chan struct{})
	if d != nil {
		d.users.Add(1)
	}
	go func() { // ends with the call; there are at most maxStuck of them
		defer func() { <-g.slots }()
		defer d.release()
		v, err := f()
		select {
		case done <- result{v, err}:
		case <-gone:
			if late != nil && err == nil {
				late(v)
			}
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-timer.C:
		close(gone)
		return none, silent()
	case <-ctx.Done():
		close(gone)
		return none, ctx.Err()
	}
}
