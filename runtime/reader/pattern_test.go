package reader

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const gib = 1 << 30

func TestPatternsOfReadsAreRecognised(t *testing.T) {
	every := func(start, step, n int64, times int) (reads []span) {
		for i := range times {
			reads = append(reads, span{start + int64(i)*step, n})
		}
		return reads
	}
	for name, tc := range map[string]struct {
		reads   []span
		size    int64
		unit    int64 // of the last read
		ahead   []span
		strided bool
	}{
		"a first read at the start may go on": {
			reads: every(0, 0, 4096, 1), size: gib, unit: mediumBytes,
		},
		"a first read elsewhere takes little": {
			reads: every(gib/2, 0, 4096, 1), size: gib, unit: smallBytes,
		},
		"a large read elsewhere takes no more than a megabyte more": {
			reads: every(gib/2, 0, mediumBytes, 1), size: gib, unit: mediumBytes,
		},
		"half a megabyte in a row is a sequential reader": {
			reads: every(gib/2, 128<<10, 128<<10, 4), size: gib, unit: blockBytes, // the block that it is in is enough
		},
		"one that goes on has ever more fetched ahead, up to a limit": {
			reads: every(0, mediumBytes, mediumBytes, 64), size: gib, unit: blockBytes,
			ahead: []span{{64 * mediumBytes, maxAhead}},
		},
		"nothing is fetched beyond the end": {
			reads: every(0, mediumBytes, mediumBytes, 64), size: 64*mediumBytes + 1, unit: blockBytes,
			ahead: []span{{64 * mediumBytes, 1}},
		},
		"requests may overtake each other": {
			reads: []span{{0, mediumBytes}, {2 * mediumBytes, mediumBytes}, {mediumBytes, mediumBytes}, {3 * mediumBytes, mediumBytes}}, size: gib,
			unit: blockBytes, ahead: []span{{blockBytes, 3 * 4 * mediumBytes}},
		},
		"even steps are told ahead, further with each": {
			reads: every(10*blockBytes, 3*blockBytes, smallBytes, 6), size: gib, unit: smallBytes, strided: true,
			ahead: every(28*blockBytes, 3*blockBytes, smallBytes, 3),
		},
		"also backwards": {
			reads: every(100*blockBytes, -2*blockBytes, smallBytes, 4), size: gib, unit: smallBytes, strided: true,
			ahead: every(92*blockBytes, -2*blockBytes, smallBytes, 1),
		},
		"jumps are only jumps": {
			reads: []span{{100 * mediumBytes, 4096}, {7 * mediumBytes, 4096}, {555 * mediumBytes, 4096}, {211 * mediumBytes, 4096}}, size: gib, unit: smallBytes,
		},
		"a small file is taken whole": {
			reads: every(smallBytes, 0, 4096, 1), size: 2 * smallBytes, unit: mediumBytes,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var p pattern
			var got plan
			for _, r := range tc.reads {
				got = p.saw(r.off, r.n, tc.size)
			}
			if got.unit != tc.unit || got.strided != tc.strided {
				t.Errorf("unit %d, strided %v", got.unit, got.strided)
			}
			if diff := cmp.Diff(tc.ahead, got.ahead, cmp.AllowUnexported(span{})); diff != "" {
				t.Errorf("ahead (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManySequentialReadersOfOneFileAreEachRecognised(t *testing.T) {
	var p pattern
	for step := range int64(8) {
		for reader := range int64(maxStreams) {
			at := p.saw(reader*reader*20*blockBytes+step*512<<10, 512<<10, 1000*gib)
			if steady := step >= 1; steady != (len(at.ahead) > 0) {
				t.Fatalf("reader %d at step %d: ahead %v", reader, step, at.ahead)
			}
		}
	}
}

func TestReadAheadInVainMakesItLess(t *testing.T) {
	var p pattern
	last := func() int64 {
		var at plan
		for i := range int64(64) {
			at = p.saw(i*mediumBytes, mediumBytes, gib)
		}
		return at.ahead[0].n
	}
	if n := last(); n != maxAhead {
		t.Fatalf("%d bytes ahead", n)
	}
	for range 10 {
		p.wasted()
	}
	if n := last(); n != blockBytes {
		t.Errorf("%d bytes ahead after waste", n)
	}
	for range 1000 {
		p.used()
	}
	if n := last(); n != maxAhead {
		t.Errorf("%d bytes ahead after use", n)
	}
}

func TestTheProfileGoesByWhereTheFilesAndTheBytesAre(t *testing.T) {
	many := func(n int, size int64) (sizes []int64) {
		for range n {
			sizes = append(sizes, size)
		}
		return sizes
	}
	for name, tc := range map[string]struct {
		sizes []int64
		want  fuse.Profile
	}{
		"nothing":                      {nil, fuse.ProfileLarge},
		"pictures":                     {many(1000, 110<<10), fuse.ProfileSmall},
		"shards":                       {many(100, 512<<20), fuse.ProfileLarge},
		"records of a megabyte":        {many(100, 1<<20), fuse.ProfileLarge},
		"weights with many small ones": {append(many(50, 2000), many(8, 4<<30)...), fuse.ProfileLarge},
		"pictures with a list":         {append(many(1000, 110<<10), 20<<20), fuse.ProfileSmall},
	} {
		t.Run(name, func(t *testing.T) {
			if got := profileOf(tc.sizes); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestHedgesKeepToTheirBudget(t *testing.T) {
	h := newHedger()
	hedges := 0
	const requests = 10_000
	for range requests {
		h.began(smallBytes)
		if h.allow() {
			hedges++
		}
	}
	if most := hedgeBurst + int(requests*hedgeBudget) + 1; hedges > most || hedges < most/2 {
		t.Errorf("%d hedges of %d requests", hedges, requests)
	}
}

func TestAHedgeWaitsAsLongAsNearlyAllTook(t *testing.T) {
	h := newHedger()
	if d := h.began(blockBytes); d != firstHedgeDelay {
		t.Errorf("%s at first", d)
	}
	for i := range 200 {
		h.took("a", blockBytes, time.Duration(i%100+1)*time.Millisecond)
	}
	if d := h.began(blockBytes); d < 90*time.Millisecond || d > 99*time.Millisecond {
		t.Errorf("%s, want the 95th of 100 ms", d)
	}
	if d := h.began(smallBytes); d != firstHedgeDelay {
		t.Errorf("small ranges wait %s by what large ones took", d)
	}
	for range samplesKept {
		h.took("a", blockBytes, time.Microsecond)
	}
	if d := h.began(blockBytes); d != minHedgeDelay {
		t.Errorf("%s, want no less than %s", d, minHedgeDelay)
	}
}

func TestASlowOwnerIsAskedLastForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHedger()
		first := func() string {
			owners := []*wirepb.Member{{Address: "slow"}, {Address: "quick"}}
			h.order(owners)
			return owners[0].GetAddress()
		}
		for range lossesToDemote {
			if first() != "slow" {
				t.Fatal("too early")
			}
			h.lost("slow")
		}
		if first() != "quick" {
			t.Error("the slow owner is still asked first")
		}
		time.Sleep(demotedFor + time.Second)
		if first() != "slow" {
			t.Error("the slow owner is never asked again")
		}
		h.keep(map[string]bool{"quick": true})
		if len(h.losers) != 0 {
			t.Error("who is no member is remembered")
		}
	})
}

func TestABandwidthIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reader{limit: newPace(10 * mediumBytes)}
		start := time.Now()
		for range 100 {
			if err := r.pace(t.Context(), mediumBytes); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.pace(t.Context(), 5*blockBytes); err != nil { // more than at once
			t.Fatal(err)
		}
		want := (120*mediumBytes - paceBytes) * time.Second / (10 * mediumBytes)
		if took := time.Since(start); took < want-time.Second || took > want+time.Second {
			t.Errorf("120 MiB at 10 MiB/s took %s", took)
		}
	})
}
