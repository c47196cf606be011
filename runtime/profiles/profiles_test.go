package profiles

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProfilesAreServedOnlyWhereAskedAndWhileAsked(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- Serve(ctx, address) }()
	go func() { ended <- Serve(ctx, "") }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	page := ""
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(page, "goroutine profile"); {
		if resp, err := client.Get("http://" + address + "/debug/pprof/goroutine?debug=1"); err == nil {
			data, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			page = string(data)
		}
		if time.Now().After(deadline) {
			t.Fatalf("no profile: %q", page)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("ended before its context: %v", err)
	default:
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := Serve(t.Context(), "nowhere:x"); err == nil {
		t.Error("served at an address that is none")
	}
}
