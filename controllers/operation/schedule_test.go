package operation

import (
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestOfMissedTimesOnlyTheLatestIsDue(t *testing.T) {
	for sentence, tc := range map[string]struct{ schedule, last, now, due, next string }{
		"none has come":                           {"0 * * * *", "2026-01-01 10:00:01", "2026-01-01 10:59:59", "", "2026-01-01 11:00:00"},
		"one has come this second":                {"0 * * * *", "2026-01-01 10:00:01", "2026-01-01 11:00:00", "2026-01-01 11:00:00", "2026-01-01 12:00:00"},
		"the last one is not due again":           {"0 * * * *", "2026-01-01 11:00:00", "2026-01-01 11:00:30", "", "2026-01-01 12:00:00"},
		"three were missed":                       {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 13:10:00", "2026-01-01 13:00:00", "2026-01-01 14:00:00"},
		"years were missed":                       {"* * * * *", "2011-01-01 10:00:00", "2026-01-01 13:10:20", "2026-01-01 13:10:00", "2026-01-01 13:11:00"},
		"a rare day was missed long ago":          {"0 0 29 2 *", "2019-01-01 00:00:00", "2023-06-01 00:00:00", "2020-02-29 00:00:00", "2024-02-29 00:00:00"},
		"a name":                                  {"@daily", "2026-01-01 10:00:00", "2026-01-03 10:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"},
		"a period counts from the last time":      {"@every 90m", "2026-01-01 10:00:00", "2026-01-01 11:29:59", "", "2026-01-01 11:30:00"},
		"of a period the latest multiple counts":  {"@every 90m", "2026-01-01 10:00:00", "2026-01-01 13:15:00", "2026-01-01 13:00:00", "2026-01-01 14:30:00"},
		"a clock that went back owes nobody runs": {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 08:30:00", "", "2026-01-01 09:00:00"},
	} {
		t.Run(sentence, func(t *testing.T) {
			plan, err := parseSchedule(tc.schedule)
			if err != nil {
				t.Fatal(err)
			}
			due := plan.due(at(t, tc.last), at(t, tc.now))
			if tc.due == "" && !due.IsZero() || tc.due != "" && !due.Equal(at(t, tc.due)) {
				t.Errorf("due %s, want %s", due, tc.due)
			}
			last := at(t, tc.last)
			if !due.IsZero() {
				last = due
			}
			if next := plan.nextAfter(last, at(t, tc.now)); !next.Equal(at(t, tc.next)) {
				t.Errorf("next %s, want %s", next, tc.next)
			}
		})
	}
}

func TestASchedulesMistakeIsNamedWithItsRemedy(t *testing.T) {
	for schedule, words := range map[string]string{
		"0 0 31 2 *":              "never comes",
		"61 * * * *":              "is not one of cron",
		"@sometimes":              "is not one of cron",
		"":                        "is not one of cron",
		"@every 10s":              "at least '@every 1m'",
		"CRON_TZ=UTC 0 * * * *":   "in UTC",
		"TZ=Asia/Tokyo 0 1 * * *": "in UTC",
	} {
		if _, err := parseSchedule(schedule); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", schedule, err, words)
		}
	}
}
