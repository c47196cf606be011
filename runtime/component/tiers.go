package component

import (
	"fmt"
	"strconv"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/store"
)

// Marks of a tier that names none.
const (
	defaultHigh = 0.95
	defaultLow  = 0.7
)

// tiersOf reads the levels of the cache, from fast to slow.
func tiersOf(levels []contract.TierConfig) ([]store.Tier, error) {
	tiers := make([]store.Tier, 0, len(levels))
	for i, level := range levels {
		tier := store.Tier{Medium: level.MediumType}
		if len(level.Quotas) != len(level.MountPaths) {
			return nil, fmt.Errorf("level %d of the cache has %d directories and %d quotas", i, len(level.MountPaths), len(level.Quotas))
		}
		for j, dir := range level.MountPaths {
			quota, err := ParseBytes(level.Quotas[j])
			if err != nil || quota <= 0 {
				return nil, fmt.Errorf("quota %q of %s is no quantity such as 2Gi", level.Quotas[j], dir)
			}
			tier.Dirs = append(tier.Dirs, store.Dir{Path: dir, QuotaBytes: quota})
		}
		var err error
		if tier.High, err = fraction(level.High, defaultHigh); err != nil {
			return nil, fmt.Errorf("high of level %d: %w", i, err)
		}
		if tier.Low, err = fraction(level.Low, defaultLow); err != nil {
			return nil, fmt.Errorf("low of level %d: %w", i, err)
		}
		if tier.Low > tier.High {
			tier.Low = tier.High
		}
		tiers = append(tiers, tier)
	}
	return tiers, nil
}

func fraction(s string, otherwise float64) (float64, error) {
	if s == "" {
		return otherwise, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f <= 0 || f > 1 {
		return 0, fmt.Errorf("%q is no fraction such as 0.95", s)
	}
	return f, nil
}
