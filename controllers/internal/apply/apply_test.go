package apply

import (
	"encoding/json"
	"testing"
)

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

func TestFieldsThatAPredecessorWroteAreWanted(t *testing.T) {
	type m = map[string]any
	type l = []any
	service := m{"spec": m{"ports": l{m{"name": "rpc", "port": int64(7510)}, m{"name": "http", "port": int64(7511), "protocol": "TCP"}}}}
	for sentence, tc := range map[string]struct {
		fields string
		want   m
		wanted bool
	}{
		"a field":                                            {`{"f:spec":{"f:a":{}}}`, m{"spec": m{"a": "x"}}, true},
		"a field that is not wanted any more":                {`{"f:spec":{"f:a":{},"f:b":{}}}`, m{"spec": m{"a": "x"}}, false},
		"less than is wanted":                                {`{"f:spec":{"f:a":{}}}`, m{"spec": m{"a": "x", "b": "y"}}, true},
		"a map as a whole":                                   {`{"f:spec":{".":{},"f:a":{}}}`, m{"spec": m{"a": "x"}}, true},
		"a label with a colon in its name":                   {`{"f:labels":{"f:a:b/c":{}}}`, m{"labels": m{"a:b/c": "x"}}, true},
		"elements by number and default protocol":            {`{"f:spec":{"f:ports":{"k:{\"port\":7510,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}`, service, true},
		"a protocol that is written down":                    {`{"f:spec":{"f:ports":{"k:{\"port\":7511,\"protocol\":\"UDP\"}":{".":{}}}}}`, service, false},
		"an element that is not wanted any more":             {`{"f:spec":{"f:ports":{"k:{\"port\":7512,\"protocol\":\"TCP\"}":{".":{}}}}}`, service, false},
		"a field of an element":                              {`{"f:spec":{"f:ports":{"k:{\"port\":7510,\"protocol\":\"TCP\"}":{"f:targetPort":{}}}}}`, service, false},
		"a value of a set":                                   {`{"f:finalizers":{"v:\"a\"":{}}}`, m{"finalizers": l{"a"}}, true},
		"a value that is not wanted any more":                {`{"f:finalizers":{"v:\"b\"":{}}}`, m{"finalizers": l{"a"}}, false},
		"an element by its place, of which no more is known": {`{"f:list":{"i:0":{}}}`, m{"list": l{"a"}}, false},
	} {
		t.Run(sentence, func(t *testing.T) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(tc.fields), &fields); err != nil {
				t.Fatal(err)
			}
			if got := wants(tc.want, fields); got != tc.wanted {
				t.Errorf("wants(%v, %s) = %v", tc.want, tc.fields, got)
			}
		})
	}
}
