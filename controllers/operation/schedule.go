package operation

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// schedule of policy Cron, in UTC.
type schedule struct{ cron.Schedule }

// parseSchedule reads five fields, a name such as @daily, or @every with a time
// of at least a minute.
func parseSchedule(text string) (schedule, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		return schedule{}, fmt.Errorf("schedule %q names a time zone: give the times in UTC", text)
	}
	parsed, err := cron.ParseStandard(text)
	if err != nil {
		return schedule{}, fmt.Errorf("schedule %q is not one of cron (%w): give five fields such as '0 3 * * *', a name such as @daily, or '@every 90m'", text, err)
	}
	if every, ok := parsed.(cron.ConstantDelaySchedule); ok && every.Delay < time.Minute {
		return schedule{}, fmt.Errorf("schedule %q is too often: give at least '@every 1m'", text)
	}
	if parsed.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return schedule{}, fmt.Errorf("schedule %q never comes: there is no such day", text)
	}
	return schedule{parsed}, nil
}

// nextAfter is the first time after now, where the last one was at last.
func (s schedule) nextAfter(last, now time.Time) time.Time {
	last, now = last.UTC(), now.UTC()
	if every, ok := s.Schedule.(cron.ConstantDelaySchedule); ok {
		last = last.Truncate(time.Second)
		return last.Add((max(now.Sub(last), 0)/every.Delay + 1) * every.Delay)
	}
	return s.Next(now)
}

// lookBack are how far back the latest time is looked for, so that a schedule
// that nobody kept for years is not gone through minute by minute.
var lookBack = []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 31 * 24 * time.Hour, 366 * 24 * time.Hour}

// due is the latest time after the last one that has come by now; zero if none
// has. Of several that were missed only the latest counts.
func (s schedule) due(last, now time.Time) time.Time {
	last, now = last.UTC(), now.UTC()
	if every, ok := s.Schedule.(cron.ConstantDelaySchedule); ok {
		last = last.Truncate(time.Second)
		missed := now.Sub(last) / every.Delay
		if missed < 1 {
			return time.Time{}
		}
		return last.Add(missed * every.Delay)
	}
	for _, back := range lookBack {
		from := now.Add(-back)
		if from.Before(last) {
			from = last
		}
		if due := s.latest(from, now); !due.IsZero() || from.Equal(last) {
			return due
		}
	}
	return s.latest(last, now)
}

func (s schedule) latest(from, now time.Time) time.Time {
	var due time.Time
	for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
		due = t
	}
	return due
}
