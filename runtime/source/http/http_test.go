package http_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/http"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/webserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, url string, options map[string]string) *http.Store {
	t.Helper()
	s, err := http.Open(t.Context(), source.Config{MountPoint: url, EncryptOptions: options, Egress: egress.Unrestricted()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSuiteAgainstRealServers(t *testing.T) {
	for _, kind := range webserver.Kinds {
		for where, below := range map[string]string{"at the root": "", "below a path": "with space/ünd/"} {
			t.Run(string(kind)+" "+where, func(t *testing.T) {
				t.Parallel()
				server := webserver.Start(t, kind)
				f := sourcetest.Fixture{
					Open:   func(t *testing.T) source.Store { return open(t, server.URL+below, nil) },
					Put:    func(t *testing.T, path string, data []byte) { server.Put(t, below+path, data) },
					Remove: func(t *testing.T, path string) { server.Remove(t, below+path) },
					Stop:   server.Down, Start: server.Up,
				}
				if kind.Hides() {
					f.Unlisted = func(path string) bool { return path == "dir.ext/.hidden" }
				}
				sourcetest.Run(t, f)
			})
		}
	}
}
