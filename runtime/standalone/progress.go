package standalone

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

// Progress shows how far a load is: as a bar that moves on a terminal, as a line
// now and then elsewhere.
type Progress struct {
	out      io.Writer
	width    func() int // of the terminal; nil where there is none
	now      func() time.Time
	began    time.Time
	lastLine time.Time
	open     bool // the bar's line is not ended
}

// NewProgress writes to a file.
func NewProgress(out *os.File) *Progress {
	p := &Progress{out: out, now: time.Now, began: time.Now()}
	if columns(out) > 0 {
		p.width = func() int { return columns(out) }
	}
	return p
}

// columns is the width of a terminal, 0 for what is none.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80 // a terminal that does not know
	}
	return int(size.Col)
}

// Show shows the state of the load.
func (p *Progress) Show(l contract.LoadSummary) {
	now := p.now()
	if p.width != nil {
		p.open = true
		fmt.Fprintf(p.out, "\r\x1b[K%s", bar(l, p.width()-1))
		return
	}
	if l.Phase == contract.LoadRunning && now.Sub(p.lastLine) < plainEvery {
		return
	}
	p.lastLine = now
	fmt.Fprintln(p.out, words(l))
}

// End ends the bar's line.
func (p *Progress) End() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}

// Took is how long the load was looked at.
func (p *Progress) Took() time.Duration { return p.now().Sub(p.began) }

// fraction of a load that is done, between 0 and 1.
func fraction(l contract.LoadSummary) float64 {
	switch {
	case l.BytesTotal > 0:
		return float64(l.BytesDone) / float64(l.BytesTotal)
	case l.Phase == contract.LoadComplete:
		return 1
	case l.FilesTotal > 0:
		return float64(l.FilesDone) / float64(l.FilesTotal)
	default:
		return 0
	}
}

// words are all there is to say of a load, in one line.
func words(l contract.LoadSummary) string {
	if l.FilesTotal == 0 && l.BytesTotal == 0 && l.Phase == contract.LoadRunning {
		if l.Message != "" {
			return l.Message
		}
		return "listing the targets"
	}
	s := fmt.Sprintf("%5.1f%%  %s of %s  %d of %d files", 100*fraction(l),
		master.FormatBytes(l.BytesDone), master.FormatBytes(l.BytesTotal), l.FilesDone, l.FilesTotal)
	if l.FilesFailed > 0 {
		s += fmt.Sprintf("  %d failed", l.FilesFailed)
	}
	if l.Phase == contract.LoadRunning {
		s += "  " + master.FormatBytes(l.BytesPerSecond) + "/s  ETA " + eta(l)
	}
	if l.Message != "" {
		s += "  " + l.Message
	}
	return s
}

// eta is how long the rest takes at the present rate.
func eta(l contract.LoadSummary) string {
	left := l.BytesTotal - l.BytesDone
	if l.BytesPerSecond <= 0 || left < 0 {
		return "?"
	}
	seconds := float64(left) / float64(l.BytesPerSecond)
	if seconds > 99*3600 {
		return ">99h"
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// bar is a line of at most width columns.
func bar(l contract.LoadSummary, width int) string {
	text := words(l)
	if room := min(40, width-len(text)-3); room >= 10 {
		full := int(fraction(l) * float64(room))
		text = "[" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "] " + text
	}
	if runes := []rune(text); len(runes) > width {
		text = string(runes[:max(0, width)])
	}
	return text
}
