package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestASocketThatWasLeftBehindIsReplacedAndAFileIsNot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false) // as after a crash
	old.Close()
	l, err := Listen(t.Context(), UnixAddress(path))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := NewClient(ClientOptions{})
	defer client.Close()
	conn, err := client.dial(t.Context(), UnixAddress(path))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %v", err)
	}
	got.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(t.Context(), UnixAddress(file)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("listened over a file: %v, %v", l, err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
		t.Errorf("the file is %q, %v", data, err)
	}
	for address, want := range map[string]bool{UnixAddress("/x"): true, "unix:x": true, "host:1": false, ":1": false, "unix": false} {
		if IsUnix(address) != want {
			t.Errorf("%s is a Unix address: %v", address, !want)
		}
	}
}
