package contract

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names of what a DataLoad may say in spec.options to the native engine.
const (
	// LoadBandwidth bounds the bytes a second that are read from the sources for
	// the load, over all workers: a whole number of M, Mi, G, Gi, T or Ti, as 100Mi.
	LoadBandwidth = "bandwidth"
	// LoadParallelism bounds the blocks that are under way at once, over all workers.
	LoadParallelism = "parallelism"
	// LoadPriority orders the loads of one runtime: those of higher priority go first.
	LoadPriority = "priority"
	// LoadKeep is LoadKeepPin, LoadKeepUnpin or LoadKeepFree.
	LoadKeep = "keep"
)

// Values of LoadKeep.
const (
	LoadKeepPin   = "pin"   // what is loaded is pinned
	LoadKeepUnpin = "unpin" // the targets are unpinned, and nothing is loaded
	LoadKeepFree  = "free"  // the targets are freed, and nothing is loaded
)

// Bounds of the values.
const (
	MaxLoadParallelism = 4096
	MaxLoadPriority    = 1000 // and as much below zero
)

// LoadOptions are the options of a load.
type LoadOptions struct {
	BytesPerSecond int64 // 0: any
	Parallelism    int32 // 0: any
	Priority       int32
	Keep           string // empty: load, and pin nothing
}

// ParseLoadOptions reads spec.options of a DataLoad. Names that the engine does
// not know are unknown, sorted; they may be meant for another engine. An error
// begins with the name of the option.
func ParseLoadOptions(options map[string]string) (o LoadOptions, unknown []string, err error) {
	for name, value := range options {
		switch name {
		case LoadBandwidth:
			n, ok := parseQuantity(value)
			if !ok {
				return o, nil, badOption(name, value, "give bytes per second with M, Mi, G, Gi, T or Ti, such as 100Mi")
			}
			o.BytesPerSecond = n
		case LoadParallelism:
			n, ok := parseWhole(value)
			if !ok || n < 1 || n > MaxLoadParallelism {
				return o, nil, badOption(name, value, fmt.Sprintf("give a whole number from 1 to %d", MaxLoadParallelism))
			}
			o.Parallelism = n
		case LoadPriority:
			n, ok := parseWhole(value)
			if !ok || n < -MaxLoadPriority || n > MaxLoadPriority {
				return o, nil, badOption(name, value, fmt.Sprintf("give a whole number from -%[1]d to %[1]d; 0 is the default, and higher goes first", MaxLoadPriority))
			}
			o.Priority = n
		case LoadKeep:
			if !slices.Contains([]string{LoadKeepPin, LoadKeepUnpin, LoadKeepFree}, value) {
				return o, nil, badOption(name, value, "give pin, unpin or free")
			}
			o.Keep = value
		default:
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return o, unknown, nil
}

func badOption(name, value, remedy string) error {
	return fmt.Errorf("%s is %q: %s", name, value, remedy)
}

// The admission of DataLoads has the same rules.

func parseWhole(text string) (int32, bool) {
	n, err := strconv.ParseInt(text, 10, 32)
	return int32(n), err == nil && strconv.FormatInt(n, 10) == text
}

func parseQuantity(text string) (int64, bool) {
	digits := strings.TrimRight(text, "MGTi")
	factor, ok := map[string]int64{"M": 1e6, "G": 1e9, "T": 1e12, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}[text[len(digits):]]
	n, whole := parseWhole(digits)
	return int64(n) * factor, ok && whole && n >= 1 && n <= 999_999
}
