package demo

import (
	"bufio"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// logLine is a line of a host's log, as text: when, its level, who says it, and what. Lines of a longer text have none of these.
var logLine = regexp.MustCompile(`^\d{4}-\S+ \[(\w+)\] +(.*)`)

// lookAgain is how often a log is looked at.
const lookAgain = 200 * time.Millisecond

// followLog prints what a device logs of the plugin until Dev ends, and closes log.
func (b *bench) followLog(name string, log *os.File) {
	defer log.Close() //nolint:errcheck // only read
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	lines, part, shows := bufio.NewReader(log), "", false
	for {
		text, err := lines.ReadString('\n')
		part += text
		switch {
		case err == nil:
			var line string
			if line, shows = ofPlugin(strings.TrimRight(part, "\r\n"), b.plugin, shows); shows {
				b.say("%-6s log    %s", name, line)
			}
			part = ""
			continue
		case !errors.Is(err, io.EOF):
			b.say("%s: its log can not be read any more: %s", name, err)
			return
		}
		select {
		case <-ticker.C:
		case <-b.following.Done():
			return
		}
	}
}

// ofPlugin returns what is shown of a line of a log, and whether it is: of what the plugin says, and of what goes wrong with it. before
// says whether the line before it was, which it may belong to.
func ofPlugin(line, plugin string, before bool) (shown string, shows bool) {
	parts := logLine.FindStringSubmatch(line)
	if parts == nil {
		return line, before
	}
	level, text := parts[1], parts[2]
	who, _, _ := strings.Cut(text, ": ")
	says := slices.Contains(strings.Split(who, "."), plugin)
	wrong := (level == "WARN" || level == "ERROR") && strings.Contains(text+" ", " plugin="+plugin+" ")
	return "[" + level + "] " + text, says || wrong
}
