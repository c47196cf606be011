package engine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/millrace/millrace/apis/contract"
)

// checks say what the values of options must look like that a running engine
// takes in: a process that is not started anew cannot fail for a bad one.
var checks = map[string]struct {
	good func(string) bool
	want string
}{
	contract.OptionDrainTimeout:   {isDuration, "a duration such as 15m, or 0s"},
	contract.OptionStoreTTL:       {isLasting, "a duration such as 24h"},
	contract.OptionMetadataTTL:    {isLasting, "a duration such as 60s"},
	contract.OptionDrainBandwidth: {func(v string) bool { n, ok := bytesOf(v); return ok && n > 0 }, "bytes a second such as 256Mi"},
	contract.OptionBandwidth:      {func(v string) bool { n, ok := bytesOf(v); return ok && n > 0 }, "bytes a second such as 200Mi"},
	contract.OptionStoreScrub:     {isBytes, "bytes a second such as 4Mi, or 0"},
	contract.OptionStoreMove:      {isBytes, "bytes a second such as 64Mi, or 0"},
}

func isDuration(v string) bool {
	d, err := time.ParseDuration(v)
	return err == nil && d >= 0
}

func isLasting(v string) bool { return isDuration(v) && v != "0s" && v != "0" }

func isBytes(v string) bool {
	n, ok := bytesOf(v)
	return ok && n >= 0
}

func bytesOf(v string) (int64, bool) {
	q, err := resource.ParseQuantity(v)
	return q.Value(), err == nil
}

// validateOptions refuses values that the engine could not take in.
func (d *Description) validateOptions() *Problem {
	if d.Foreign != nil {
		return nil // other engines have options of their own
	}
	for _, options := range []map[string]string{d.Master.Options, d.Worker.Options, d.Client.Options} {
		for _, name := range slices.Sorted(maps.Keys(options)) {
			if check, ok := checks[name]; ok && options[name] != "" && !check.good(options[name]) {
				return &Problem{ReasonInvalid, fmt.Sprintf("option %s is %q: give it %s, or leave it out", name, options[name], check.want)}
			}
		}
	}
	return nil
}
