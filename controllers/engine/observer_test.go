package engine_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/engine"
)

var data = types.NamespacedName{Namespace: "ns", Name: "data"}

// master streams what is put into says; hang up ends the present streams.
type master struct {
	*httptest.Server
	says    chan contract.Summary
	hangUp  chan struct{}
	streams atomic.Int32
	retired atomic.Int32
}

func newMaster(t *testing.T) *master {
	m := &master{says: make(chan contract.Summary), hangUp: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathSummary, func(w http.ResponseWriter, r *http.Request) {
		m.streams.Add(1)
		for {
			select {
			case s := <-m.says:
				if json.NewEncoder(w).Encode(s) != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			case <-m.hangUp:
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST "+contract.PathRetire, func(http.ResponseWriter, *http.Request) { m.retired.Add(1) })
	m.Server = httptest.NewServer(mux)
	t.Cleanup(m.Close)
	return m
}

// observe starts an Observer and the queue of one controller that listens to it.
func observe(t *testing.T) (*engine.Observer, workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	client := &http.Client{Transport: &http.Transport{}}
	o := engine.NewObserver(client, testr.New(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = o.Start(ctx) }()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(func() {
		cancel()
		<-ended
		queue.ShutDown()
		client.CloseIdleConnections()
	})
	if err := o.Source(nil).Start(ctx, queue); err != nil {
		t.Fatal(err)
	}
	return o, queue
}

// woken takes the next request out of the queue.
func woken(t *testing.T, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	t.Helper()
	got := make(chan reconcile.Request)
	go func() {
		req, _ := queue.Get()
		queue.Done(req)
		got <- req
	}()
	select {
	case req := <-got:
		if req.NamespacedName != data {
			t.Fatalf("woken for %s", req)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody was woken")
	}
}

func TestObserverTellsOfEveryChangeAndOfNoRepetition(t *testing.T) {
	m := newMaster(t)
	o, queue := observe(t)
	o.Watch(data, m.URL)
	o.Watch(data, m.URL) // known already
	if _, _, ok := o.Latest(data); ok {
		t.Error("a master that said nothing is heard")
	}
	m.says <- contract.Summary{Revision: 1, CachedBytes: 10}
	woken(t, queue)
	s, at, ok := o.Latest(data)
	if !ok || s.CachedBytes != 10 || time.Since(at) > time.Minute {
		t.Errorf("latest %+v at %s, %v", s, at, ok)
	}
	m.says <- contract.Summary{Revision: 2, CachedBytes: 10}
	m.says <- contract.Summary{Revision: 3, CachedBytes: 20}
	woken(t, queue)
	if s, _, _ := o.Latest(data); s.CachedBytes != 20 {
		t.Errorf("woken for a repetition: %+v", s)
	}
	if n := m.streams.Load(); n != 1 {
		t.Errorf("%d streams for one runtime", n)
	}
}

func TestObserverFindsAMasterAgain(t *testing.T) {
	m := newMaster(t)
	o, queue := observe(t)
	o.Watch(data, m.URL)
	m.says <- contract.Summary{CachedBytes: 10}
	woken(t, queue)
	m.hangUp <- struct{}{}
	woken(t, queue)
	if s := o.State(data); s.Connected || s.Err == nil || s.Summary.CachedBytes != 10 {
		t.Errorf("after the loss: %+v", s)
	}
	m.says <- contract.Summary{CachedBytes: 30}
	woken(t, queue)
	if s, _, ok := o.Latest(data); !ok || s.CachedBytes != 30 {
		t.Errorf("after the return: %+v, %v", s, ok)
	}
}

func TestObserverFollowsAMasterToItsNewAddress(t *testing.T) {
	first, second := newMaster(t), newMaster(t)
	o, queue := observe(t)
	o.Watch(data, first.URL)
	first.says <- contract.Summary{CachedBytes: 1}
	woken(t, queue)
	o.Watch(data, second.URL)
	if s := o.State(data); s.Connected || s.Summary.CachedBytes != 1 {
		t.Errorf("between two masters: %+v", s)
	}
	second.says <- contract.Summary{CachedBytes: 2}
	woken(t, queue)
	if s, _, ok := o.Latest(data); !ok || s.CachedBytes != 2 {
		t.Errorf("at the second: %+v, %v", s, ok)
	}
	o.Forget(data)
	if s := o.State(data); s.Connected || !s.Received.IsZero() {
		t.Errorf("forgotten, but %+v", s)
	}
}

func TestRetireReachesTheMaster(t *testing.T) {
	m := newMaster(t)
	o, _ := observe(t)
	if err := o.Retire(t.Context(), m.URL); err != nil {
		t.Error(err)
	}
	if m.retired.Load() != 1 {
		t.Errorf("asked %d times", m.retired.Load())
	}
	m.Close()
	if err := o.Retire(t.Context(), m.URL); err == nil {
		t.Error("a dead master was asked without an error")
	}
}
