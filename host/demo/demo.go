// Package demo shows Starling at work: two devices as real processes, paired over loopback or through a NATS server, that keep a folder's
// catalogue and a tag in step, also after they were cut off from one another.
//
// It promises that every number it prints was measured in that run, that it fails if the devices do not end equal, and
// that it leaves nothing behind: its processes end and its folder is removed when it returns. With a plugin of one's own,
// it shows that instead: two devices that run it, and records that sync.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Options says what to show.
type Options struct {
	Transport string // "tcp" (or empty): the devices dial one another; "nats": they meet through a NATS server
	NATS      string // the server's URL; empty: nats-server, from PATH or beside Program, is started
	Path      string // the folder to catalogue; empty: Go's module cache or, without one, Go's own source
	Once      bool   // end after the last step instead of waiting for ctx
	Program   string // path of the starling binary
	Out       io.Writer
	Width     int // of the terminal that Out is, in characters; 0: it is none, and lines are not redrawn

	Plugin string   // path of a plugin to show, instead of a folder's catalogue
	Put    []string // with Plugin: records that one device writes, as JSON objects of the model that the plugin serves first
}

// Run shows it all and, unless Once is set, blocks until ctx ends. An error means that a step failed or that the
// devices did not become equal; its message says which.
func Run(ctx context.Context, o Options) error {
	s := &show{Options: o}
	steps, err := s.steps(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "starling-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is temporary
	s.dir = dir
	defer s.stop()
	return s.run(ctx, steps)
}

// step is one thing that is shown.
type step struct {
	name string
	do   func(context.Context) error
}

// steps returns what there is to show, once it has found what that needs.
func (s *show) steps(ctx context.Context) (steps []step, err error) {
	if s.Plugin != "" {
		if s.own, err = ask(ctx, s.Plugin); err != nil {
			return nil, err
		}
		return []step{{"make two devices", s.beginWithPlugin}, {"pair them", s.pair}, {"write and sync", s.sync}}, nil
	}
	if s.root, err = folder(ctx, s.Path); err != nil {
		return nil, err
	}
	return []step{
		{"make two devices", s.begin}, {"pair them", s.pair}, {"catalogue " + s.root, s.catalogue}, {"edit apart", s.editApart},
	}, nil
}

// folder returns the absolute path of the folder to catalogue.
func folder(ctx context.Context, path string) (string, error) {
	for _, variable := range []string{"GOMODCACHE", "GOROOT"} {
		if path != "" {
			break
		}
		out, err := exec.CommandContext(ctx, "go", "env", variable).Output() //nolint:gosec // fixed names
		if err != nil {
			return "", fmt.Errorf("no folder was named and go is not there to name its module cache: %w; write: starling demo PATH", err)
		}
		candidate := strings.TrimSpace(string(out))
		if variable == "GOROOT" {
			candidate = filepath.Join(candidate, "src")
		}
		if entries, err := os.ReadDir(candidate); err == nil && len(entries) > 0 {
			path = candidate
		}
	}
	if path == "" {
		return "", fmt.Errorf("no folder was named and Go has neither a module cache nor its source here; write: starling demo PATH")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s can not be catalogued: %w", path, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder; name one: starling demo PATH", path)
	}
	return path, nil
}

// show is one run of the demo.
type show struct {
	Options
	dir, root  string
	alice, bob *device
	link       *link
	fleet      *fleet // nil: without NATS
	entries    int64
	own        plugin // that Options.Plugin names
}

func (s *show) run(ctx context.Context, steps []step) error {
	for _, step := range steps {
		if err := step.do(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, errRefused) {
				return fmt.Errorf("demo: %s: %w", step.name, err)
			}
			return fmt.Errorf("demo: %s: %w%s", step.name, err, s.logs())
		}
	}
	if s.Once {
		return nil
	}
	s.suggest()
	<-ctx.Done()
	fmt.Fprintln(s.Out, "\nending alice and bob") //nolint:errcheck // as in say
	return nil
}

func (s *show) stop() {
	for _, d := range []*device{s.alice, s.bob} {
		if d != nil {
			d.stop()
		}
	}
	if s.link != nil {
		s.link.close()
	}
	if s.fleet != nil {
		s.fleet.stop()
	}
}

// logs returns the last lines of the hosts' logs, to go with an error.
func (s *show) logs() string {
	var out strings.Builder
	for _, d := range []*device{s.alice, s.bob} {
		if d == nil {
			continue
		}
		if text, err := os.ReadFile(d.log()); err == nil && len(text) > 0 {
			lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
			fmt.Fprintf(&out, "\n\nlog of %s:\n%s", d.name, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
		}
	}
	return out.String()
}

// say prints one finished step: what it was, and what it showed; in two lines where one would not fit the terminal.
func (s *show) say(what, format string, args ...any) {
	showed := fmt.Sprintf(format, args...)
	if s.Width > 0 && 67+len(showed) > s.Width {
		fmt.Fprintf(s.Out, "%s\n    %s\n", what, showed) //nolint:errcheck // a closed terminal ends the demo by its signal
		return
	}
	fmt.Fprintf(s.Out, "%-66s %s\n", what, showed) //nolint:errcheck // as above
}

func (s *show) suggest() {
	alice, bob := s.alice.config(), s.bob.config()
	if s.Plugin != "" {
		fmt.Fprintf(s.Out, `
Try, in another terminal:
  %[1]s --config %[2]s put %[4]s '%[5]s'
  %[1]s --config %[3]s list %[4]s
  %[1]s --config %[3]s plugins
Ctrl-C ends both and removes %[6]s.
`, s.Program, alice, bob, s.own.model, s.example(), s.dir) //nolint:errcheck // as in say
		return
	}
	fmt.Fprintf(s.Out, `
Try, in another terminal:
  %s --config %s put tag '{"name":"holiday"}'
  %s --config %s list tag
  %s --config %s watch
  sqlite3 -readonly %s 'SELECT name, size FROM entry ORDER BY size DESC LIMIT 5'
Ctrl-C ends both and removes %s.
`, s.Program, alice, s.Program, bob, s.Program, bob, s.bob.database(), s.dir) //nolint:errcheck // as in say
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func rate(n int64, d time.Duration) string {
	return humanize.Comma(int64(float64(n)/max(d.Seconds(), 0.001))) + " rows/s"
}
