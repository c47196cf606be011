package namespace

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTheTTLChangesWhileTheTreeIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("a")
		tree := newTree(t, Options{TTL: time.Hour}, mountOf("/", s))
		know(t, tree)
		looked := func() time.Time { return tree.MountStates()[0].Looked }
		synctest.Wait()
		began := looked()
		if began.IsZero() {
			t.Fatal("a source that was walked was never looked at")
		}
		s.put("b", "v1", 10)
		time.Sleep(10 * time.Minute)
		if tree.Totals().Files != 1 || !looked().Equal(began) {
			t.Fatal("the source was looked at before its time")
		}
		tree.SetTTL(time.Minute) // by which it is overdue
		time.Sleep(2 * time.Second)
		if tree.Totals().Files != 2 || !looked().After(began) {
			t.Fatalf("%d files, looked at %s", tree.Totals().Files, looked())
		}
		s.put("c", "v1", 10)
		tree.SetTTL(time.Hour)
		time.Sleep(10 * time.Minute)
		if tree.Totals().Files != 2 {
			t.Fatal("the source was looked at as often as before")
		}
	})
}
