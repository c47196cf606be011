// Package bytesize prints sizes and shares the one way that scripts of Fluid's
// users compare as strings.
package bytesize

import (
	"fmt"
	"math"
)

var units = [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Format prints a size as %.2f and a binary unit: 443.89MiB, 0.00B.
func Format(size int64) string {
	value, unit := float64(max(size, 0)), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.2f%s", value, units[unit])
}

// Percent prints part of whole as %.1f%%, rounded down below the whole: 100.0%
// is printed only when complete says that nothing is missing.
func Percent(part, whole int64, complete bool) string {
	if complete {
		return "100.0%"
	}
	if whole <= 0 {
		return "0.0%"
	}
	share := math.Floor(1000*float64(part)/float64(whole)) / 10
	return fmt.Sprintf("%.1f%%", min(max(share, 0), 99.9))
}

// Ratio prints part of whole as %.1f%%; nothing of nothing is 0.0%.
func Ratio(part, whole int64) string {
	return Percent(part, whole, whole > 0 && part >= whole)
}

// Label prints a size as a label's value may have it: whole when it is whole
// in its unit (2GiB), else with two digits (1.50GiB).
func Label(size int64) string {
	text := Format(size)
	for i := range text {
		if text[i] == '.' && text[i:i+3] == ".00" {
			return text[:i] + text[i+3:]
		}
	}
	return text
}
