package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// bar shows progress: redrawn on a terminal, a line each quarter elsewhere.
type bar struct {
	out     io.Writer
	width   int // of the terminal; 0: it is none
	total   int64
	quarter int64
}

func (b *bar) draw(done int64, since time.Duration) {
	total := max(b.total, done, 1)
	percent := 100 * done / total
	line := fmt.Sprintf("bob follows [%-20s] %3d %%  %s of about %s  %s", strings.Repeat("#", int(percent/5)), percent,
		humanize.Comma(done), humanize.Comma(total), rate(done, since))
	switch {
	case b.width > 0:
		fmt.Fprintf(b.out, "\r\x1b[K%s", line[:min(len(line), b.width-1)]) //nolint:errcheck // as in say
	case percent/25 > b.quarter:
		b.quarter = percent / 25
		fmt.Fprintln(b.out, line) //nolint:errcheck // as in say
	}
}

func (b *bar) clear() {
	if b.width > 0 {
		fmt.Fprint(b.out, "\r\x1b[K") //nolint:errcheck // as in say
	}
}
