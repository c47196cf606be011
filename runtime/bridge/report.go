package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/millrace/millrace/apis/contract"
)

// answer is the JSON object that a command printed: all of its output, or the
// last line of it, for some engines log ahead of it.
func answer(out []byte, into any) error {
	out = bytes.TrimSpace(out)
	if err := json.Unmarshal(out, into); err == nil {
		return nil
	}
	last := out[bytes.LastIndexByte(out, '\n')+1:]
	if err := json.Unmarshal(last, into); err != nil {
		return fmt.Errorf("did not print JSON: %w", err)
	}
	return nil
}

// mountedPaths is what mountUFS says it has mounted.
func mountedPaths(out []byte) ([]string, error) {
	var said struct {
		Mounted *[]string `json:"mounted"`
	}
	if err := answer(out, &said); err != nil {
		return nil, err
	}
	if said.Mounted == nil {
		return nil, errors.New(`did not print {"mounted":[…]}`)
	}
	var paths []string
	for _, p := range *said.Mounted {
		paths = append(paths, path.Clean("/"+p))
	}
	return paths, nil
}

// report is what an engine says of its cache. Sizes are bytes; nil is what it
// does not say.
type report struct {
	cached, capacity, total, files *int64
	percentage, hitRatio           string
}

// parseReport reads what reportSummary prints: strings or numbers, sizes in
// bytes or with a binary unit, such as 443.89MiB, MB or M.
func parseReport(out []byte) (report, error) {
	var said struct {
		Cached     word `json:"cached"`
		Percentage word `json:"cachedPercentage"`
		Capacity   word `json:"cacheCapacity"`
		HitRatio   word `json:"cacheHitRatio"`
		FileNum    word `json:"fileNum"`
		UFSTotal   word `json:"ufsTotal"`
	}
	if err := answer(out, &said); err != nil {
		return report{}, err
	}
	var r report
	var err error
	for _, field := range []struct {
		name string
		said word
		into **int64
	}{{"cached", said.Cached, &r.cached}, {"cacheCapacity", said.Capacity, &r.capacity}, {"ufsTotal", said.UFSTotal, &r.total}, {"fileNum", said.FileNum, &r.files}} {
		if field.said == "" {
			continue
		}
		n, err := parseSize(string(field.said))
		if err != nil {
			return report{}, fmt.Errorf("printed %s %q: %w", field.name, field.said, err)
		}
		*field.into = &n
	}
	if r.percentage, err = parsePercent(string(said.Percentage)); err != nil {
		return report{}, fmt.Errorf("printed cachedPercentage %q: %w", said.Percentage, err)
	}
	if r.hitRatio, err = parsePercent(string(said.HitRatio)); err != nil {
		return report{}, fmt.Errorf("printed cacheHitRatio %q: %w", said.HitRatio, err)
	}
	if r.cached == nil && r.percentage == "" {
		return report{}, errors.New("printed neither cached nor cachedPercentage")
	}
	return r, nil
}

// into puts a report into a Summary.
func (r *report) into(s *contract.Summary) {
	value := func(n *int64) int64 {
		if n == nil {
			return 0
		}
		return *n
	}
	s.CachedBytes, s.CapacityBytes = value(r.cached), value(r.capacity)
	s.UFSTotalBytes, s.FileNum, s.MetadataComplete = value(r.total), value(r.files), r.total != nil
	*s.Engine = contract.EngineSummary{
		Reported: true, CachedPercentage: r.percentage, CacheHitRatio: r.hitRatio, NoTotal: r.total == nil, NoFiles: r.files == nil,
	}
}

// word is a JSON string or number.
type word string

func (w *word) UnmarshalJSON(text []byte) error {
	var number json.Number
	if err := json.Unmarshal(text, &number); err == nil {
		*w = word(number)
		return nil
	}
	return json.Unmarshal(text, (*string)(w))
}

// units are powers of 1024, whatever they are called: engines that say MB mean
// MiB, as their own configuration does.
const units = "KMGTPE"

// parseSize reads a number of bytes with or without a unit.
func parseSize(text string) (int64, error) {
	text = strings.ToUpper(strings.TrimSpace(text))
	number := strings.TrimRight(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.TrimSpace(text[len(number):])
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errors.New("is not a size such as 443.89MiB")
	}
	short := strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	switch power := strings.Index(units, short); {
	case short == "":
	case len(short) == 1 && power >= 0:
		value *= math.Pow(1024, float64(power+1))
	default:
		return 0, fmt.Errorf("has the unit %s, which is none of B, KiB, MiB, GiB, TiB, PiB and EiB", unit)
	}
	if !(value >= 0 && value < math.MaxInt64) {
		return 0, errors.New("is not a size such as 443.89MiB")
	}
	return int64(math.Round(value)), nil
}

// parsePercent reads 57.3% or 57.3 and prints it as the status has it; "" for "".
func parsePercent(text string) (string, error) {
	text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "%"))
	if text == "" {
		return "", nil
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return "", errors.New("is not a percentage such as 57.3%")
	}
	return fmt.Sprintf("%.1f%%", value), nil
}
