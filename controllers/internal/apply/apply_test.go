package apply

import "testing"

func TestALiveObjectHoldsWhatIsWanted(t *testing.T) {
	type m = map[string]any
	type l = []any
	for sentence, tc := range map[string]struct {
		live, want any
		holds      bool
	}{
		"the same":                        {m{"a": int64(1)}, m{"a": int64(1)}, true},
		"more than is wanted":             {m{"a": int64(1), "status": m{}}, m{"a": int64(1)}, true},
		"another value":                   {m{"a": int64(2)}, m{"a": int64(1)}, false},
		"a field that somebody took away": {m{"b": int64(1)}, m{"a": int64(1)}, false},
		"a default in an element":         {l{m{"name": "x", "protocol": "TCP"}}, l{m{"name": "x"}}, true},
		"an element more":                 {l{m{"name": "x"}, m{"name": "y"}}, l{m{"name": "x"}}, false},
		"elements in another order":       {l{"x", "y"}, l{"y", "x"}, false},
		"nothing where nothing is wanted": {nil, m{}, true},
		"no list where none is wanted":    {nil, l{}, true},
		"a list where none is wanted":     {l{"x"}, l{}, false},
		"nothing where a map is wanted":   {nil, m{"a": "b"}, false},
		"a map where a value is wanted":   {m{"a": "b"}, "a", false},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := holds(tc.live, tc.want); got != tc.holds {
				t.Errorf("holds(%v, %v) = %v", tc.live, tc.want, got)
			}
		})
	}
}
