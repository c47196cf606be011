package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/contract"
)

const (
	// silence is how long a stream may be quiet: masters repeat themselves every 15 s.
	silence = 40 * time.Second
	// reconnectMax is the longest pause between two tries to reach a master.
	reconnectMax = 3 * time.Second
)

// State is what the Observer knows of one master.
type State struct {
	// Summary is the last one that was received.
	Summary contract.Summary
	// Received is when Summary was received; zero when none was.
	Received time.Time
	// Connected tells whether the stream is open and has brought a Summary.
	Connected bool
	// Since is when Connected took its value.
	Since time.Time
	// Err is why the stream is not open.
	Err error
	// Look is the last one at the sources that was asked for.
	Look Look
}

// Observer keeps one streaming watch of the Summary of every bound runtime and
// wakes controllers when one changes. A Dataset and its runtime share their
// name, so one key stands for both. It costs nothing while nothing changes.
type Observer struct {
	http *http.Client
	log  logr.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	watches   map[types.NamespacedName]*watched
	listeners []listener
}

// watched is one watch; its state is guarded by Observer.mu.
type watched struct {
	address string
	ctx     context.Context
	cancel  context.CancelFunc
	state   State
}

type listener struct {
	queue    workqueue.TypedRateLimitingInterface[reconcile.Request]
	requests func(types.NamespacedName) []reconcile.Request
}

// NewObserver makes an Observer; Start ends it.
func NewObserver(client *http.Client, log logr.Logger) *Observer {
	ctx, cancel := context.WithCancel(context.Background())
	return &Observer{http: client, log: log, ctx: ctx, cancel: cancel, watches: map[types.NamespacedName]*watched{}}
}

// Start blocks until ctx ends, then closes every stream.
func (o *Observer) Start(ctx context.Context) error {
	<-ctx.Done()
	o.cancel()
	o.wg.Wait()
	return nil
}

// Watch keeps the stream of a runtime's master at an address such as
// http://10.1.2.3:7511 open until Forget. Another address replaces the stream.
func (o *Observer) Watch(key types.NamespacedName, address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.watches[key]
	if old != nil && old.address == address || o.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(o.ctx)
	w := &watched{address: address, ctx: ctx, cancel: cancel, state: State{Since: time.Now()}}
	if old != nil {
		old.cancel()
		w.state.Summary, w.state.Received = old.state.Summary, old.state.Received
	}
	o.watches[key] = w
	o.wg.Go(func() { o.follow(ctx, key, w) })
}

// Forget ends the watch of a runtime.
func (o *Observer) Forget(key types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watches[key]; w != nil {
		w.cancel()
		delete(o.watches, key)
	}
}

// Latest is the last Summary of a runtime and when it came. It is false while
// the master cannot be heard: what was known before then is best left as it is.
func (o *Observer) Latest(key types.NamespacedName) (contract.Summary, time.Time, bool) {
	s := o.State(key)
	return s.Summary, s.Received, s.Connected
}

// State is all that is known of a runtime's master.
func (o *Observer) State(key types.NamespacedName) State {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watches[key]; w != nil {
		return w.state
	}
	return State{}
}

// Source wakes a controller when the Summary of a runtime changed or its master
// was lost or found. Without requests the controller gets the runtime's own
// name, which is the Dataset's too. Masters that are heard when the controller
// starts wake it as well.
func (o *Observer) Source(requests func(types.NamespacedName) []reconcile.Request) source.Source {
	if requests == nil {
		requests = func(key types.NamespacedName) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: key}}
		}
	}
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.listeners = append(o.listeners, listener{queue: queue, requests: requests})
		for key, w := range o.watches {
			if w.state.Connected {
				for _, req := range requests(key) {
					queue.Add(req)
				}
			}
		}
		return nil
	})
}

// follow keeps one stream open until ctx ends.
func (o *Observer) follow(ctx context.Context, key types.NamespacedName, w *watched) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, reconnectMax
	for ctx.Err() == nil {
		err := o.stream(ctx, w.address, func(s contract.Summary) {
			pause.Reset()
			o.receive(key, w, s)
		})
		if ctx.Err() != nil {
			return
		}
		o.lose(key, w, err)
		select {
		case <-ctx.Done():
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// stream reads Summaries from one connection until it ends.
func (o *Observer) stream(ctx context.Context, address string, each func(contract.Summary)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("silent for %s", silence)) })
	defer quiet.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+contract.PathSummary+"?watch=true", nil)
	if err != nil {
		return fmt.Errorf("watch summary at %s: %w", address, err)
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return fmt.Errorf("watch summary: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch summary at %s: %s", address, resp.Status)
	}
	for decoder := json.NewDecoder(resp.Body); ; {
		var s contract.Summary
		if err := decoder.Decode(&s); errors.Is(err, io.EOF) {
			return fmt.Errorf("watch summary at %s: the master closed the stream", address)
		} else if err != nil {
			return fmt.Errorf("watch summary at %s: %w", address, errors.Join(err, context.Cause(ctx)))
		}
		quiet.Reset(silence)
		each(s)
	}
}

// receive takes a Summary in and wakes the listeners if it says anything new.
func (o *Observer) receive(key types.NamespacedName, w *watched, s contract.Summary) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.watches[key] != w {
		return
	}
	before := w.state
	w.state.Summary, w.state.Received, w.state.Err = s, time.Now(), nil
	if !before.Connected {
		w.state.Connected, w.state.Since = true, w.state.Received
		o.log.V(1).Info("master is heard", "runtime", key)
	}
	// A look at the sources that found nothing new is no news.
	s.Revision, s.LookedAt = before.Summary.Revision, before.Summary.LookedAt
	if !before.Connected || !reflect.DeepEqual(s, before.Summary) {
		o.wake(key)
	}
}

// lose notes that a master cannot be heard and wakes the listeners the first time.
func (o *Observer) lose(key types.NamespacedName, w *watched, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.watches[key] != w {
		return
	}
	w.state.Err = err
	if w.state.Connected {
		w.state.Connected, w.state.Since = false, time.Now()
		o.log.V(1).Info("master is not heard", "runtime", key, "cause", err.Error())
		o.wake(key)
	}
}

// wake needs o.mu.
func (o *Observer) wake(key types.NamespacedName) {
	for _, l := range o.listeners {
		for _, req := range l.requests(key) {
			l.queue.Add(req)
		}
	}
}

// CancelLoad has the master of a runtime end a load, for good.
func (o *Observer) CancelLoad(ctx context.Context, key types.NamespacedName, id, reason string) error {
	o.mu.Lock()
	w := o.watches[key]
	o.mu.Unlock()
	if w == nil {
		return fmt.Errorf("cancel load %s of %s: its master is not known", id, key)
	}
	return o.post(ctx, "cancel load "+id, w.address+contract.PathCancelLoad+"?"+url.Values{"id": {id}, "reason": {reason}}.Encode())
}

// Retire asks a master to have its workers drop their files and stop caching.
func (o *Observer) Retire(ctx context.Context, address string) error {
	return o.post(ctx, "retire cache", address+contract.PathRetire)
}

// masterAnswer is how long a master may take to do what it is asked for.
const masterAnswer = 5 * time.Second

func (o *Observer) post(ctx context.Context, what, address string) error {
	ctx, cancel := context.WithTimeout(ctx, masterAnswer)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, nil)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", what, address, err)
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s at %s: %s", what, address, resp.Status)
	}
	return nil
}
