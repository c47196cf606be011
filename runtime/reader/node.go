package reader

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/wire"
)

// redialEvery is how often a worker that is not there is looked for.
const redialEvery = time.Second

// node is the connection to the worker of this node, while there is one.
type node struct {
	socket  string
	silence time.Duration
	log     *slog.Logger
	local   atomic.Pointer[wire.Local]
}

func newNode(socket string, silence time.Duration, log *slog.Logger) *node {
	return &node{socket: socket, silence: silence, log: log}
}

// worker is the connection to use, nil if there is none.
func (n *node) worker() *wire.Local {
	l := n.local.Load()
	if l == nil || l.Dead() {
		return nil
	}
	return l
}

// dial tries once.
func (n *node) dial(ctx context.Context) {
	if n.socket == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	l, err := wire.DialLocal(ctx, n.socket, n.silence)
	if err != nil {
		return // no worker here, or not now
	}
	n.local.Store(l)
	n.log.Info("connected to the worker of this node", "socket", n.socket)
}

// run keeps a connection until ctx ends.
func (n *node) run(ctx context.Context) {
	for n.socket != "" && ctx.Err() == nil {
		if l := n.worker(); l != nil {
			select {
			case <-l.Done():
				n.log.Info("the worker of this node is gone", "socket", n.socket)
			case <-ctx.Done():
				return
			}
		}
		if n.dial(ctx); n.worker() == nil {
			peers.Sleep(ctx, redialEvery)
		}
	}
}

func (n *node) close() {
	if l := n.local.Load(); l != nil {
		l.Close()
	}
}
