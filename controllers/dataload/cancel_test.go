package dataload_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/dataload"
	"github.com/millrace/millrace/controllers/engine"
)

// busy is a master that loads what it is told, over HTTP.
type busy struct {
	*httptest.Server

	mu        sync.Mutex
	running   []string
	cancelled map[string]string // reason by id
	changed   chan struct{}
}

func newBusy(t *testing.T) *busy {
	b := &busy{cancelled: map[string]string{}, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathSummary, func(w http.ResponseWriter, r *http.Request) {
		for {
			b.mu.Lock()
			s, changed := contract.Summary{}, b.changed
			for _, id := range b.running {
				s.Loads = append(s.Loads, contract.LoadSummary{ID: id, Phase: contract.LoadRunning})
			}
			b.mu.Unlock()
			if json.NewEncoder(w).Encode(s) != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST "+contract.PathCancelLoad, func(_ http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("id")
		b.change(func() {
			b.running = slices.DeleteFunc(b.running, func(other string) bool { return other == id })
			b.cancelled[id] = r.URL.Query().Get("reason")
		})
	})
	b.Server = httptest.NewServer(mux)
	t.Cleanup(b.Close)
	return b
}

func (b *busy) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *busy) load(ids ...string) { b.change(func() { b.running = append(b.running, ids...) }) }

func (b *busy) reason(id string) (reason string, cancelled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	reason, cancelled = b.cancelled[id]
	return reason, cancelled
}

// cancels runs a manager with the canceller until stop; observe tells it where
// the master of a Dataset is.
func (w *world) cancels() (observer *engine.Observer, stop func()) {
	w.Helper()
	mgr, err := ctrl.NewManager(apitest.Config(w.T), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptrTo(true)},
	})
	w.must(err)
	transport := &http.Transport{}
	observer = engine.NewObserver(&http.Client{Transport: transport}, logr.Discard())
	w.must(mgr.Add(observer))
	w.must(dataload.SetupCanceller(mgr, observer))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			w.Errorf("run manager: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		transport.CloseIdleConnections()
	})
	w.Cleanup(stop)
	return observer, stop
}

// quiet is a world with nothing at work in it.
func quiet(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Client: apitest.Client(t)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "cancel-"}}
	w.must(w.Create(t.Context(), ns))
	w.namespace = ns.Name
	return w
}

func (w *world) untilCancelled(b *busy, id string) {
	w.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		if _, cancelled := b.reason(id); cancelled {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("load %s is not cancelled", id)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTheLoadOfADeletedDataLoadIsCancelledAndNoOther(t *testing.T) {
	w := quiet(t)
	b := newBusy(t)
	observer, stop := w.cancels()
	observer.Watch(w.key("training"), b.URL)
	once, repeats, stays := w.load("once", dataset("training")), w.load("repeats", dataset("training")), w.load("stays", dataset("training"))
	others := []string{string(stays.UID), string(stays.UID) + "-1763733600", "bench-1", "cli-df7e940f72aa93cb"}
	b.load(append(others, string(once.UID), string(repeats.UID)+"-1763733600")...)

	w.must(w.Delete(t.Context(), once))
	w.untilCancelled(b, string(once.UID))
	if reason, _ := b.reason(string(once.UID)); reason != "its DataLoad was deleted" {
		t.Errorf("the reason is %q", reason)
	}
	// One that lingers: whoever deletes it waits for somebody's finalizer.
	w.must(client.IgnoreNotFound(w.Get(t.Context(), client.ObjectKeyFromObject(repeats), repeats)))
	repeats.Finalizers = []string{"example.com/slow"}
	w.must(w.Update(t.Context(), repeats))
	w.must(w.Delete(t.Context(), repeats))
	w.untilCancelled(b, string(repeats.UID)+"-1763733600")

	// A master that is lost holds nothing up, and is told when it is back.
	b.CloseClientConnections()
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(repeats), repeats))
	repeats.Finalizers = nil
	w.must(w.Update(t.Context(), repeats))
	w.until(func() string {
		if err := w.Get(t.Context(), client.ObjectKeyFromObject(repeats), repeats); !apierrors.IsNotFound(err) {
			return "the dataload is still there"
		}
		return ""
	})

	// What was deleted while no manager ran is cancelled by the next one.
	stop()
	late := w.load("late", dataset("training"))
	b.load(string(late.UID))
	w.must(w.Delete(t.Context(), late))
	observer, _ = w.cancels()
	observer.Watch(w.key("training"), b.URL)
	w.untilCancelled(b, string(late.UID))

	for _, id := range others {
		if reason, cancelled := b.reason(id); cancelled {
			t.Errorf("load %s was cancelled: %s", id, reason)
		}
	}
}

func TestALoadThatBeginsAfterItsDataLoadWentIsCancelled(t *testing.T) {
	w := quiet(t)
	b := newBusy(t)
	observer, _ := w.cancels()
	observer.Watch(w.key("training"), b.URL)
	id := string(uuid.NewUUID())
	b.load(id)
	w.untilCancelled(b, id)
}

var _ dataload.Engines = (*engine.Observer)(nil)
