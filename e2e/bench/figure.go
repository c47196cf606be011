package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Figure is one line of the table and of bench.json.
type Figure struct {
	// Name has the group first: local/seq1M/warm/1-reader.
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	// Unit is x for a ratio of the two sides of one run.
	Unit string `json:"unit"`
	// Target is what is aimed for; nil for a figure that only informs.
	Target *float64 `json:"target"`
	// Better is higher or lower.
	Better string `json:"better"`
	// Spread is the least and the greatest of the runs behind Value.
	Spread [2]float64 `json:"-"`
	// Note says what the two sides were, in absolute rates.
	Note string `json:"-"`
}

// Sides of a target.
const (
	higher = "higher"
	lower  = "lower"
)

// verdict of a figure against its target.
func (f Figure) verdict() string {
	switch {
	case f.Target == nil:
		return ""
	case f.Better == lower && f.Value <= *f.Target, f.Better == higher && f.Value >= *f.Target:
		return "met"
	default:
		return "MISSED"
	}
}

// target tells what is aimed for.
func (f Figure) target() string {
	if f.Target == nil {
		return ""
	}
	sign := "≥"
	if f.Better == lower {
		sign = "≤"
	}
	return sign + " " + short(*f.Target)
}

// short prints three digits, or a whole number.
func short(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// PrintTable writes figures for people.
func PrintTable(w io.Writer, figures []Figure) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "FIGURE\tVALUE\tUNIT\tSPREAD\tTARGET\tVERDICT\tNOTE")
	for _, f := range figures {
		spread := ""
		if f.Spread != [2]float64{} && f.Spread[0] != f.Spread[1] {
			spread = short(f.Spread[0]) + "–" + short(f.Spread[1])
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, short(f.Value), f.Unit, spread, f.target(), f.verdict(), f.Note)
	}
	return t.Flush()
}

// WriteJSON writes figures for programs, whole or not at all.
func WriteJSON(file string, figures []Figure) error {
	data, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// median of at least one value; the lower of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
