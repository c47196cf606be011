package master

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// stuck is a stand with a load that does not go on by itself, and its worker.
func stuck(t *testing.T, id string) (*stand, *hand, wirepb.Master_LoadClient) {
	t.Helper()
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	h := s.attach("a", func(*hand, *wirepb.Task) {})
	stream, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	s.until("the worker has tasks", func() bool { return h.count() > 0 })
	return s, h, stream
}

// last reads a stream of progress to its end.
func last(t *testing.T, stream wirepb.Master_LoadClient) (p *wirepb.LoadProgress) {
	t.Helper()
	for {
		next, err := stream.Recv()
		if err != nil {
			return p
		}
		p = next
	}
}

func TestACancelledLoadEndsAndSaysWhy(t *testing.T) {
	s, h, stream := stuck(t, "1")
	reply, err := s.client.CancelLoad(t.Context(), &wirepb.CancelLoadRequest{Id: "1", Reason: "nobody wants it"})
	if err != nil || !reply.GetCancelled() {
		t.Fatalf("cancel: %v, %v", reply, err)
	}
	if p := last(t, stream); p.GetPhase() != contract.LoadCancelled || p.GetMessage() != "cancelled: nobody wants it" {
		t.Errorf("its loader was told %v", p)
	}
	s.until("the worker was told of every task", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.cancelled) == h.tasks
	})
	if l := s.Summary().Loads; len(l) != 1 || l[0].Phase != contract.LoadCancelled {
		t.Errorf("summary %+v", l)
	}
	if reply, err := s.client.CancelLoad(t.Context(), &wirepb.CancelLoadRequest{Id: "1"}); err != nil || reply.GetCancelled() {
		t.Errorf("again: %v, %v", reply, err)
	}
	h.leave()
	s.attach("b", nil)
	if p := s.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("the same load after it: %v", p)
	}
}

func TestALoadThatIsCancelledForGoodDoesNotBeginAgain(t *testing.T) {
	s, _, stream := stuck(t, "1")
	cancel := func(id string) {
		t.Helper()
		if _, err := s.client.CancelLoad(t.Context(), &wirepb.CancelLoadRequest{Id: id, Reason: "DataLoad warm was deleted", ForGood: true}); err != nil {
			t.Fatal(err)
		}
	}
	cancel("1")
	cancel("not yet begun")
	last(t, stream)
	for _, id := range []string{"1", "not yet begun"} {
		again, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: id})
		if err == nil {
			_, err = again.Recv()
		}
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "DataLoad warm was deleted") {
			t.Errorf("load %q again: %v", id, err)
		}
	}
	s.mu.Lock()
	for id, o := range s.over {
		s.over[id] = over{o.why, o.since.Add(-keepLoads - time.Second)}
	}
	s.mu.Unlock()
	cancel("2")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.over) != 1 {
		t.Errorf("%d loads are kept as over", len(s.over))
	}
}

func TestTheEndOfALoadersStreamDoesNotCancel(t *testing.T) {
	s, _, stream := stuck(t, "1")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	other, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := other.Recv(); err != nil || p.GetPhase() != contract.LoadRunning {
		t.Errorf("who joins is told %v, %v", p, err)
	}
}

func TestALoadWhoseRuntimeGoesSaysSo(t *testing.T) {
	s, _, stream := stuck(t, "1")
	s.Retire()
	if p := last(t, stream); p.GetPhase() != contract.LoadFailed || p.GetMessage() != retiring {
		t.Errorf("its loader was told %v", p)
	}
}

func TestALoadIsCancelledOverHTTP(t *testing.T) {
	s, _, stream := stuck(t, "dataload/warm/1234")
	server := httptest.NewServer(s.Handler(http.NotFoundHandler()))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(query url.Values) (int, string) {
		t.Helper()
		resp, err := http.Post(server.URL+contract.PathCancelLoad+"?"+query.Encode(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(body))
	}
	if code, body := ask(nil); code != http.StatusBadRequest {
		t.Errorf("without an id: %d %s", code, body)
	}
	this := url.Values{"id": {"dataload/warm/1234"}, "reason": {"DataLoad warm was deleted"}}
	if code, body := ask(this); code != http.StatusOK || body != `{"cancelled":true}` {
		t.Errorf("%d %s", code, body)
	}
	if p := last(t, stream); p.GetMessage() != "cancelled: DataLoad warm was deleted" {
		t.Errorf("its loader was told %v", p)
	}
	if code, body := ask(this); code != http.StatusOK || body != `{"cancelled":false}` {
		t.Errorf("again: %d %s", code, body)
	}
}
