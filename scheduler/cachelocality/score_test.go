package cachelocality

import (
	"math"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/millrace/millrace/scheduler/index"
)

func TestScoreIsThePartOfTheBytesThatIsNear(t *testing.T) {
	locality := func(total int64, nodes, zones map[string]int64) *index.Locality {
		return &index.Locality{TotalBytes: total, NodeBytes: nodes, ZoneBytes: zones}
	}
	type bytes = map[string]int64
	for name, tc := range map[string]struct {
		localities []*index.Locality
		node, zone string
		weight     int32
		want       int64
	}{
		"a node with everything":                       {[]*index.Locality{locality(1000, bytes{"a": 1000}, nil)}, "a", "", 20, 100},
		"a node with nothing":                          {[]*index.Locality{locality(1000, bytes{"a": 1000}, nil)}, "b", "", 20, 0},
		"a node with half":                             {[]*index.Locality{locality(1000, bytes{"a": 500}, nil)}, "a", "", 20, 50},
		"others in the zone count at a discount":       {[]*index.Locality{locality(1000, bytes{"a": 1000}, bytes{"z": 1000})}, "b", "z", 20, 20},
		"own bytes and those of the zone add up":       {[]*index.Locality{locality(1000, bytes{"a": 500, "b": 500}, bytes{"z": 1000})}, "b", "z", 20, 60},
		"replicas in the zone do not count twice":      {[]*index.Locality{locality(1000, bytes{"a": 1000, "b": 1000, "c": 1000}, bytes{"z": 3000})}, "a", "z", 20, 100},
		"replicas beyond the total do not help either": {[]*index.Locality{locality(1000, bytes{"b": 1000, "c": 1000}, bytes{"z": 2000})}, "a", "z", 50, 50},
		"another zone is far":                          {[]*index.Locality{locality(1000, bytes{"a": 1000}, bytes{"z": 1000})}, "b", "y", 20, 0},
		"no zone at all is far":                        {[]*index.Locality{locality(1000, bytes{"a": 1000}, bytes{"": 1000})}, "b", "", 20, 0},
		"weight 0 turns zones off":                     {[]*index.Locality{locality(1000, bytes{"a": 1000}, bytes{"z": 1000})}, "b", "z", 0, 0},
		"the larger Dataset of two weighs more":        {[]*index.Locality{locality(900, bytes{"a": 900}, nil), locality(100, bytes{"b": 100}, nil)}, "a", "", 20, 90},
		"exabytes do not overflow":                     {[]*index.Locality{locality(math.MaxInt64, bytes{"a": math.MaxInt64}, bytes{"z": math.MaxInt64})}, "a", "z", 100, 100},
	} {
		t.Run(name, func(t *testing.T) {
			if got := score(tc.localities, tc.node, tc.zone, tc.weight); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestArgsAreReadStrictly(t *testing.T) {
	raw := func(s string) runtime.Object { return &runtime.Unknown{Raw: []byte(s)} }
	for name, tc := range map[string]struct {
		obj  runtime.Object
		want int32
		fail bool
	}{
		"no args have defaults":       {nil, 20, false},
		"empty args have defaults":    {raw(`{}`), 20, false},
		"kind and version may be set": {raw(`{"apiVersion":"kubescheduler.config.k8s.io/v1","kind":"CacheLocalityArgs","zoneWeightPercent":50}`), 50, false},
		"zero is a weight":            {raw(`{"zoneWeightPercent":0}`), 0, false},
		"more than all is refused":    {raw(`{"zoneWeightPercent":101}`), 0, true},
		"a typo is refused":           {raw(`{"zoneWeight":1}`), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := decodeArgs(tc.obj)
			if (err != nil) != tc.fail || err == nil && args.ZoneWeightPercent != tc.want {
				t.Errorf("got %+v, %v", args, err)
			}
		})
	}
}
