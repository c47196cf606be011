package contract

import (
	"reflect"
	"strings"
	"testing"
)

func TestLoadOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options map[string]string
		want    LoadOptions
		unknown []string
		says    string
	}{
		"none": {},
		"all": {map[string]string{"bandwidth": "100Mi", "parallelism": "8", "priority": "-5", "keep": "pin"},
			LoadOptions{100 << 20, 8, -5, "pin"}, nil, ""},
		"decimal suffixes":           {map[string]string{"bandwidth": "2G"}, LoadOptions{BytesPerSecond: 2e9}, nil, ""},
		"the least":                  {map[string]string{"bandwidth": "1M"}, LoadOptions{BytesPerSecond: 1e6}, nil, ""},
		"of another engine":          {map[string]string{"threads": "4", "atomicCache": "true"}, LoadOptions{}, []string{"atomicCache", "threads"}, ""},
		"too slow":                   {map[string]string{"bandwidth": "1023Ki"}, LoadOptions{}, nil, `bandwidth is "1023Ki": give bytes per second`},
		"no unit":                    {map[string]string{"bandwidth": "100"}, LoadOptions{}, nil, "such as 100Mi"},
		"zeros in front":             {map[string]string{"parallelism": "08"}, LoadOptions{}, nil, "from 1 to 4096"},
		"no number":                  {map[string]string{"bandwidth": "fast"}, LoadOptions{}, nil, "such as 100Mi"},
		"more than there can be":     {map[string]string{"bandwidth": "1000000Ti"}, LoadOptions{}, nil, "such as 100Mi"},
		"a suffix that is none":      {map[string]string{"bandwidth": "1iM"}, LoadOptions{}, nil, "such as 100Mi"},
		"empty":                      {map[string]string{"bandwidth": ""}, LoadOptions{}, nil, "such as 100Mi"},
		"nothing at once":            {map[string]string{"parallelism": "0"}, LoadOptions{}, nil, "from 1 to 4096"},
		"too urgent":                 {map[string]string{"priority": "1001"}, LoadOptions{}, nil, "from -1000 to 1000"},
		"what cannot be done to it":  {map[string]string{"keep": "for ever"}, LoadOptions{}, nil, "give pin, unpin or free"},
		"an unknown one beside ours": {map[string]string{"keep": "free", "x": "y"}, LoadOptions{Keep: "free"}, []string{"x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, unknown, err := ParseLoadOptions(tc.options)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error %v, want %q", err, tc.says)
				}
				return
			}
			if err != nil || got != tc.want || !reflect.DeepEqual(unknown, tc.unknown) {
				t.Errorf("got %+v, %v, %v", got, unknown, err)
			}
		})
	}
}
