package stage_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/e2e/stage"
)

func TestRemoteStoreGivesTheSeededBytesAtItsRate(t *testing.T) {
	data, mount := t.TempDir(), t.TempDir()
	const size = 8 << 20
	if err := stage.WriteFile(data, "a/b.bin", size); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- stage.RemoteStore(ctx, data, mount, 16<<20) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(mount, "a/b.bin")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the store was not mounted within 10 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for range 2 {
		got, err := stage.Copy(filepath.Join(mount, "a/b.bin"), true)
		if err != nil {
			t.Fatal(err)
		}
		if got.SHA256 != stage.Digest("a/b.bin", size) {
			t.Error("the bytes are not those of the seed")
		}
		if got.Seconds < 0.3 {
			t.Errorf("8 MiB at 16 MiB/s took %.2f s: the limit does not hold", got.Seconds)
		}
	}
}
