package standalone

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

var half = contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 8 << 30, BytesDone: 4 << 30, FilesTotal: 10, FilesDone: 4, BytesPerSecond: 1 << 30}

func TestABarTellsAllThatFits(t *testing.T) {
	const want = "[====================                    ]  50.0%  4.00GiB of 8.00GiB  4 of 10 files  1.00GiB/s  ETA 4s"
	if got := bar(half, 200); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for width := range 200 {
		if got := bar(half, width); len([]rune(got)) > width {
			t.Errorf("%d columns: %q", width, got)
		}
	}
	for name, tc := range map[string]struct {
		l    contract.LoadSummary
		says string
	}{
		"before the listing":  {contract.LoadSummary{Phase: contract.LoadRunning}, "listing the targets"},
		"a reason to wait":    {contract.LoadSummary{Phase: contract.LoadRunning, Message: "waiting for the source"}, "waiting for the source"},
		"no rate yet":         {contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 5, FilesTotal: 1}, "ETA ?"},
		"for ever":            {contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 1 << 50, FilesTotal: 1, BytesPerSecond: 1}, "ETA >99h"},
		"only empty files":    {contract.LoadSummary{Phase: contract.LoadRunning, FilesTotal: 4, FilesDone: 1}, " 25.0%"},
		"nothing to be done":  {contract.LoadSummary{Phase: contract.LoadComplete}, "100.0%"},
		"the end has no rate": {contract.LoadSummary{Phase: contract.LoadComplete, BytesTotal: 5, BytesDone: 5, FilesTotal: 1, FilesDone: 1}, "1 of 1 files"},
	} {
		if got := words(tc.l); !strings.Contains(got, tc.says) || strings.HasSuffix(tc.l.Phase, "ete") && strings.Contains(got, "ETA") {
			t.Errorf("%s: %q, want %q", name, got, tc.says)
		}
	}
}

func TestWithoutATerminalThereIsALineNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &Progress{out: &out, now: time.Now, began: time.Now()}
		for range 110 { // eleven seconds
			p.Show(half)
			time.Sleep(100 * time.Millisecond)
		}
		done := half
		done.Phase = contract.LoadComplete
		p.Show(done)
		p.End()
		if n := strings.Count(out.String(), "\n"); n != 4 || strings.Contains(out.String(), "\r") {
			t.Errorf("%d lines: %q", n, out.String())
		}
		if p.Took() != 11*time.Second {
			t.Errorf("took %s", p.Took())
		}
	})
}

func TestARateIsTheMeanOfTheLastSeconds(t *testing.T) {
	at := time.Unix(1000, 0)
	var r rate
	if got := r.perSecond(5, at); got != 0 {
		t.Errorf("%d before anything was seen", got)
	}
	n := int64(0)
	for range 20 {
		r.add(n, at)
		n, at = n+100, at.Add(time.Second)
	}
	if got := r.perSecond(n, at); got != 100 {
		t.Errorf("a steady rate: %d", got)
	}
	for range 20 {
		r.add(n, at)
		at = at.Add(time.Second)
	}
	if got := r.perSecond(n, at); got != 0 {
		t.Errorf("when nothing comes any more: %d", got)
	}
	if len(r.seen) > 8 {
		t.Errorf("%d samples are kept", len(r.seen))
	}
	r.add(7, at) // a new master counts from 0
	if got := r.perSecond(17, at.Add(time.Second)); got != 10 {
		t.Errorf("after the counter began anew: %d", got)
	}
}

func TestStatusIsATableAndWhatIsWrong(t *testing.T) {
	ready := Status{
		State: State{MountPoint: "/mnt/a", Sources: []string{"s3://bucket"}, PID: 7, LogFile: "/log"}, Alive: true, HitRatio: 0.5, ReadBytesPerSecond: 1 << 20,
		Summary: &contract.Summary{MetadataComplete: true, UFSTotalBytes: 2048, CachedBytes: 1024, FileNum: 3, Mounts: []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}}},
		Tiers:   []Tier{{Medium: "SSD", Path: "/cache", UsedBytes: 1024, CapacityBytes: 4096}},
	}
	down := Status{State: State{MountPoint: "/mnt/b", Sources: []string{"local:///srv"}}, Alive: true, HitRatio: -1,
		Summary: &contract.Summary{Mounts: []contract.MountSummary{{Path: "/", Reason: contract.MountUnavailable, Message: "/srv is gone"}}}}
	dead := Status{State: State{MountPoint: "/mnt/c", Master: "m:7510"}, Problem: errDead.Error()}
	for name, tc := range map[string]struct {
		all  []Status
		says []string
	}{
		"nothing": {nil, []string{"nothing is mounted"}},
		"one": {[]Status{ready}, []string{
			"MOUNT   SOURCE       SIZE     FILES  CACHED           HITS   READ       STATE\n",
			"/mnt/a  s3://bucket  2.00KiB  3      1.00KiB (50.0%)  50.0%  1.00MiB/s  Ready\n",
			"cache SSD /cache: 1.00KiB of 4.00KiB used\n", "process 7",
		}},
		"several": {[]Status{ready, down, dead}, []string{"Ready\n", "/srv", "0.00B+", "Degraded\n", "source /: SourceUnavailable 0.00B, 0 files /srv is gone\n", "Dead\n", "/mnt/c: its daemon ended"}},
	} {
		var out bytes.Buffer
		if err := Write(&out, tc.all); err != nil {
			t.Fatal(err)
		}
		for _, want := range tc.says {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, out.String())
			}
		}
		for line := range strings.Lines(out.String()) {
			if strings.HasSuffix(line, " \n") {
				t.Errorf("%s: white space at the end of %q", name, line)
			}
		}
	}
}
