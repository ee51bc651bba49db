package peersync

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
//	age DURATION              the devices made next forget what is older, whoever may need it; else nothing is old
//	audits DURATION           the devices made next audit so often; else when asked to
//	devices N TOPOLOGY        makes N devices; nothing is connected yet
//	write D KIND FIRST N      device D writes N records of KIND (device or shared) from number FIRST
//	delete D KIND FIRST N     device D deletes them
//	pass DURATION             time passes
//	turns N                   a tick, after which only N things happen
//	cut A B, join A B         the way between two devices is broken, or there again
//	stop D, start D           a device's process ends, or starts on its data
//	keep D, restore D         a copy is made of device D's data; it goes on from that copy
//	clone D                   a second copy of device D runs beside it; its number is the next one
//	end D                     the second copy D ends for good
//	lose D KIND N             device D's disk loses record N without a trace
//	audit D                   device D audits with everybody, as soon as it can
//	retire D                  the members retire device D
//	quiet, loud               messages are not shown, or are shown again
//	full D, free D            device D can store nothing, or can again
//	skew D                    device D refuses what it gets: too far ahead of its clock
//	peers D                   what device D says of its peers
//	vectors                   how far every device is
//	floors                    up to where every device has forgotten
//	records                   how many records every device has, of each kind, and whether all have the same
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
	s := &script{t: t, config: DefaultConfig(), backups: map[int]*memoryStore{}}
	s.config.RetentionAge, s.config.AuditTime = 0, 0
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

// script is a world that does what it is told.
type script struct {
	t       *testing.T
	w       *world
	out     strings.Builder
	config  Config
	quiet   bool
	backups map[int]*memoryStore
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, "    "+format+"\n", args...) }

func (s *script) run(words []string) {
	device := func(i int) *worldDevice { return s.w.devices[s.number(words[i])] }
	switch words[0] {
	case "devices":
		s.begin(s.number(words[1]), topologies[words[2]])
	case "age":
		s.config.RetentionAge = s.duration(words[1])
	case "audits":
		s.config.AuditTime = s.duration(words[1])
	case "write", "delete":
		writes := make([]write, s.number(words[4]))
		for i := range writes {
			writes[i] = write{s.number(words[3]) + i, sdk.Insert, "text"}
			if words[0] == "delete" {
				writes[i].op = sdk.Delete
			}
		}
		s.w.commit(device(1), sdk.Ownership(words[2]), writes)
		s.w.settle()
	case "pass":
		s.w.pass(s.duration(words[1]))
	case "turns":
		s.w.now = s.w.now.Add(250 * time.Millisecond)
		for _, d := range s.w.devices {
			s.w.step(d, Tick{})
		}
		for range s.number(words[1]) {
			s.w.turn()
		}
	case "quiet", "loud":
		s.quiet = words[0] == "quiet"
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
	case "keep", "restore", "clone", "end", "lose", "audit", "retire":
		s.fault(words[0], device(1), words)
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
	case "floors":
		for _, d := range s.w.devices {
			s.say("%s: %s", s.name(d), s.floors(d))
		}
	case "records":
		s.records()
	default:
		s.t.Fatalf("unknown command %q", words)
	}
}

// fault runs the commands that do something to a device.
func (s *script) fault(command string, d *worldDevice, words []string) {
	switch command {
	case "keep":
		s.backups[d.index] = d.store.clone()
	case "restore":
		s.w.stop(d)
		d.store = s.backups[d.index].clone()
		s.w.now = s.w.now.Add(time.Millisecond)
		s.w.start(d)
	case "clone":
		twin := &worldDevice{index: d.index, id: d.id, store: d.store.clone(), parity: 1}
		d.parity = 0
		s.w.devices = append(s.w.devices, twin)
		s.w.start(twin)
	case "end":
		s.w.stop(d)
		s.w.devices = slices.DeleteFunc(s.w.devices, func(other *worldDevice) bool { return other == d })
		s.w.settle()
	case "lose":
		id := recordID(sdk.Ownership(words[2]), d.id, s.number(words[3]))
		d.store.dropRow(d.store.rows[id])
		delete(d.store.records, id)
	case "audit":
		s.w.step(d, AuditNow{})
		s.w.settle()
	case "retire":
		s.w.members[d.index].Retired = true
		for _, other := range s.w.devices {
			if other != d {
				s.w.step(other, MembersChanged{Members: s.w.members})
			}
		}
		s.w.settle()
	}
}

func (s *script) begin(n int, exists func(a, b, n int) bool) {
	s.w = newWorldWith(s.t, 1, n, s.config)
	s.w.orderly = true
	s.w.cutAll(exists)
	s.w.onFrame = func(from, to *worldDevice, msg protocol.Message) {
		if text := s.describe(msg); text != "" && !s.quiet {
			s.say("%s>%s %s", s.name(from), s.name(to), text)
		}
	}
	s.w.onLog = func(d *worldDevice, l Log) {
		if l.Level >= hclog.Info && !s.quiet {
			s.say("%s: %s %v", s.name(d), l.Message, l.Args)
		}
	}
}

// name tells two copies of a device apart.
func (s *script) name(d *worldDevice) string {
	if slices.Index(s.w.devices, d) < len(s.w.members) {
		return fmt.Sprintf("d%d", d.index)
	}
	return fmt.Sprintf("d%d'", d.index)
}

func (s *script) floors(d *worldDevice) string {
	var words []string
	for _, key := range slices.SortedFunc(maps.Keys(d.store.floors), protocol.Stream.Compare) {
		words = append(words, fmt.Sprintf("d%d/%s=%s", key.Origin[15]-1, key.Kind, s.stamp(d.store.floors[key])))
	}
	return strings.Join(words, " ")
}

func (s *script) records() {
	for _, d := range s.w.devices {
		rows, tombstones, records, shadows := 0, 0, 0, 0
		for _, r := range d.store.rows {
			if r.deleted {
				tombstones++
			} else {
				rows++
			}
		}
		for _, r := range d.store.records {
			if r.exists() {
				records++
			} else {
				shadows++
			}
		}
		s.say("%s: %d rows, %d shared records; remembers %d deleted rows, %d deleted records", s.name(d), rows, records, tombstones, shadows)
	}
	if s.w.equal() {
		s.say("all have the same")
	} else {
		s.say("they differ")
	}
}

func (s *script) duration(word string) time.Duration {
	d, err := time.ParseDuration(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
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

// heads returns the stamps of positions.
func (s *script) heads(heads protocol.Heads) string {
	if len(heads) == 0 {
		return "0"
	}
	words := make([]string, len(heads))
	for i, p := range heads {
		words[i] = s.stamp(p.Stamp)
	}
	slices.Sort(words)
	return strings.Join(words, "+")
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
			name += fmt.Sprintf(" #%d d%d since %s", sub.Number, sub.Origin[15]-1, s.heads(sub.Since))
		}
		return name
	}
	switch msg := msg.(type) {
	case *protocol.Epochs, *protocol.SnapshotRequest, *protocol.SnapshotPage, *protocol.AuditRequest, *protocol.AuditResponse, *protocol.AuditRepair:
		return name + s.describeMore(msg)
	case *protocol.Hello:
		return fmt.Sprintf("Hello [%s]", s.marks(msg.Vector))
	case *protocol.AckSharedChanges:
		return fmt.Sprintf("Ack [%s]", s.marks(msg.Vector))
	case *protocol.Heartbeat:
		if len(msg.Vector)+len(msg.Known) == 0 {
			return ""
		}
		text := fmt.Sprintf("Heartbeat [%s]", s.marks(msg.Vector))
		for _, k := range msg.Known {
			text += fmt.Sprintf(" d%d has [%s]", k.Device[15]-1, s.marks(k.Vector))
		}
		return text
	case *protocol.Error:
		return fmt.Sprintf("Error %s %q", msg.Code, msg.Message)
	}
	return name
}

// describeMore describes what is not about pages of streams.
func (s *script) describeMore(msg protocol.Message) (text string) {
	switch msg := msg.(type) {
	case *protocol.Epochs:
		for _, e := range msg.Epochs {
			text += fmt.Sprintf(" d%d/%s", e.Stream.Origin[15]-1, e.Stream.Kind)
			if len(e.Parents) > 0 {
				text += " after " + s.heads(e.Parents)
			}
		}
	case *protocol.SnapshotRequest:
		text = fmt.Sprintf(" #%d %s", msg.Number, msg.Kind)
		if !msg.Origin.IsZero() {
			text += fmt.Sprintf(" of d%d since %s", msg.Origin[15]-1, s.heads(msg.Since))
		}
	case *protocol.SnapshotPage:
		unchanged := 0
		for _, ids := range msg.Unchanged {
			unchanged += len(ids.IDs)
		}
		text = fmt.Sprintf(" #%d %d changes, %d unchanged, done %t [%s]", msg.Number, rowsOf(msg), unchanged, msg.Done, s.marks(msg.Vector))
	case *protocol.AuditRequest:
		text = fmt.Sprintf(" #%d %d models", msg.Number, len(msg.Models))
	case *protocol.AuditResponse:
		text = fmt.Sprintf(" #%d moved %t, %d models differ", msg.Number, msg.Moved, len(msg.Models))
	case *protocol.AuditRepair:
		text = fmt.Sprintf(" #%d %d ranges", msg.Number, len(msg.Ranges))
	}
	return text
}
