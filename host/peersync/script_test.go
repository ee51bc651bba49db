package peersync

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

var update = flag.Bool("update", false, "write what the scripts in testdata now give")

// TestScripts runs testdata/*.txt: commands, each followed by what it gave, indented. A stamp is written as milliseconds
// since the start of the script, and a counter where that is not zero.
//
//	devices N TOPOLOGY        makes N devices; nothing is connected yet
//	write D KIND FIRST N      device D writes N records of KIND (device or shared) from number FIRST
//	pass DURATION             time passes
//	cut A B, join A B         the way between two devices is broken, or there again
//	stop D, start D           a device's process ends, or starts on its data
//	full D, free D            device D can store nothing, or can again
//	skew D                    device D refuses what it gets: too far ahead of its clock
//	peers D                   what device D says of its peers
//	vectors                   how far every device is
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the outcome has changed (-recorded +now); if that is right, run go test -run TestScripts -update:\n%s", diff)
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	s := &script{t: t}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		s.out.WriteString(line)
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			s.run(strings.Fields(line))
		}
	}
	return s.out.String()
}

type script struct {
	t   *testing.T
	w   *world
	out strings.Builder
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, "    "+format+"\n", args...) }

func (s *script) run(words []string) {
	device := func(i int) *worldDevice { return s.w.devices[s.number(words[i])] }
	switch words[0] {
	case "devices":
		s.begin(s.number(words[1]), topologies[words[2]])
	case "write":
		s.w.write(device(1), sdk.Ownership(words[2]), s.number(words[3]), s.number(words[4]), "text")
		s.w.settle()
	case "pass":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.w.pass(d)
	case "cut":
		s.w.cut[s.w.edge(device(1), device(2))] = true
		for _, c := range s.w.conns {
			if s.w.edge(c.ends[0], c.ends[1]) == s.w.edge(device(1), device(2)) {
				s.w.breakConn(c)
				break
			}
		}
		s.w.settle()
	case "join":
		delete(s.w.cut, s.w.edge(device(1), device(2)))
	case "stop":
		s.w.stop(device(1))
		s.w.settle()
	case "start":
		s.w.start(device(1))
	case "full", "skew":
		err := sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
		if words[0] == "skew" {
			err = sdk.Errorf(sdk.CodeClockSkew, "4m0s ahead of this device's clock")
		}
		device(1).store.fail = func(protocol.Page) error { return err }
	case "free":
		device(1).store.fail = nil
	case "peers":
		for _, p := range device(1).machine.Peers(s.w.now) {
			s.say("%s %s %s %s", p.Name, p.State, p.Since.Sub(s.w.begin), p.Reason)
		}
	case "vectors":
		for _, d := range s.w.devices {
			if d.up {
				s.say("d%d: %s", d.index, s.marks(d.machine.Vector()))
			}
		}
	default:
		s.t.Fatalf("unknown command %q", words)
	}
}

func (s *script) begin(n int, exists func(a, b, n int) bool) {
	s.w = newWorld(s.t, 1, n)
	s.w.orderly = true
	s.w.cutAll(exists)
	s.w.onFrame = func(from, to *worldDevice, msg protocol.Message) {
		if text := s.describe(msg); text != "" {
			s.say("d%d>d%d %s", from.index, to.index, text)
		}
	}
	s.w.onLog = func(d *worldDevice, l Log) {
		if l.Level >= hclog.Info {
			s.say("d%d: %s %v", d.index, l.Message, l.Args)
		}
	}
}

func (s *script) number(word string) int {
	n, err := strconv.Atoi(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) stamp(stamp hlc.Stamp) string {
	if stamp == 0 {
		return "0"
	}
	ms := stamp.Time().Sub(s.w.begin).Milliseconds()
	if stamp.Counter() == 0 {
		return fmt.Sprintf("%dms", ms)
	}
	return fmt.Sprintf("%dms+%d", ms, stamp.Counter())
}

func (s *script) marks(marks []protocol.Mark) string {
	words := make([]string, len(marks))
	for i, m := range marks {
		words[i] = fmt.Sprintf("d%d/%s=%s", m.Origin[15]-1, m.Kind, s.stamp(m.Stamp))
	}
	return strings.Join(words, " ")
}

// describe returns a message as a line; heartbeats that say nothing new are left out.
func (s *script) describe(msg protocol.Message) string {
	name := msg.Type().String()
	if d, ok := protocol.DeliveryOf(msg); ok {
		p := &d.Page
		return fmt.Sprintf("%s #%d d%d (%s, %s] %d changes", name, d.Subscription, p.Origin[15]-1, s.stamp(p.From), s.stamp(p.Through), p.Rows())
	}
	if r, _, ok := protocol.RequestOf(msg); ok {
		for _, drop := range r.Drop {
			name += fmt.Sprintf(" drop d%d", drop[15]-1)
		}
		for _, sub := range r.Subscribe {
			name += fmt.Sprintf(" #%d d%d since %s", sub.Number, sub.Origin[15]-1, s.stamp(sub.Since.Stamp))
		}
		return name
	}
	switch msg := msg.(type) {
	case *protocol.Hello:
		return fmt.Sprintf("Hello [%s]", s.marks(msg.Vector))
	case *protocol.AckSharedChanges:
		return fmt.Sprintf("Ack [%s]", s.marks(msg.Vector))
	case *protocol.Heartbeat:
		if len(msg.Vector) == 0 {
			return ""
		}
		return fmt.Sprintf("Heartbeat [%s]", s.marks(msg.Vector))
	case *protocol.Error:
		return fmt.Sprintf("Error %s %q", msg.Code, msg.Message)
	}
	return name
}
