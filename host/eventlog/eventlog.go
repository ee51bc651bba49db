// Package eventlog keeps what happened to a host's plugins, for people: in the data directory, so that it outlives the
// host, and beside the database, so that it can be written whatever state that is in.
//
// It promises that an event is durable when Append returns, that numbers ascend without a gap, that a line cut short by a
// crash costs that event alone, and that the files do not grow beyond twice MaxBytes: the oldest events go first. It leaves
// to others what happens and who looks.
package eventlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// MaxBytes is the size at which the file is put aside in place of the one before it.
const MaxBytes = 1 << 20

// Event is something that happened to a plugin.
type Event struct {
	Number int64     `json:"number"` // ascending from 1
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"` // such as "swapped" or "crashed"
	Plugin string    `json:"plugin,omitempty"`
	By     string    `json:"by,omitempty"` // who or what wanted it; empty: nobody did
	Why    string    `json:"why,omitempty"`
	From   Build     `json:"from,omitzero"`
	To     Build     `json:"to,omitzero"`
}

// Build names one build of a plugin.
type Build struct {
	Version string `json:"version,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Path    string `json:"path,omitempty"`
}

// Log is the events of one host. Its methods may be called at once.
type Log struct {
	path string
	max  int64

	mu      sync.Mutex
	file    *os.File
	size    int64
	last    int64 // number of the last event
	changed chan struct{}
}

// Open opens the log in dir, which must be there. It belongs to one host at a time.
func Open(dir string) (*Log, error) { return open(dir, MaxBytes) }

func open(dir string, limit int64) (*Log, error) {
	l := &Log{path: filepath.Join(dir, "events.jsonl"), max: limit, changed: make(chan struct{})}
	for _, path := range []string{l.old(), l.path} {
		events, _, err := readFile(path, 0)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			l.last = max(l.last, events[len(events)-1].Number)
		}
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of events: %w", err)
	}
	l.file = file
	return l, l.mend()
}

func (l *Log) old() string { return l.path + ".1" }

// mend ends a line that a crash has cut short, so that the next event begins a line of its own.
func (l *Log) mend() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	l.size = info.Size()
	if l.size == 0 {
		return nil
	}
	end := make([]byte, 1)
	if _, err := l.file.ReadAt(end, l.size-1); err != nil {
		return err
	}
	if end[0] != '\n' {
		n, err := l.file.WriteString("\n")
		l.size += int64(n)
		return err
	}
	return nil
}

// Append numbers an event and returns when it is durable.
func (l *Log) Append(e Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fs.ErrClosed
	}
	e.Number = l.last + 1
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if l.size > 0 && l.size+int64(len(line)) >= l.max {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	if err = errors.Join(err, l.file.Sync()); err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	l.last = e.Number
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// rotate puts the file aside and begins another. The caller holds mu.
func (l *Log) rotate() error {
	_ = l.file.Close() // each event in it is synced
	moved := os.Rename(l.path, l.old())
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("begin a log of events: %w", err) // l.file is closed: the next event tries again
	}
	l.file = file
	if moved != nil {
		return fmt.Errorf("put old events aside: %w", moved)
	}
	l.size = 0
	return nil
}

// After returns the events that are kept with a greater number, ascending, and a channel that is closed when there are
// more.
func (l *Log) After(number int64) ([]Event, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number >= l.last {
		return nil, l.changed, nil
	}
	var all []Event
	for _, path := range []string{l.old(), l.path} {
		events, _, err := readFile(path, number)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, events...)
	}
	return all, l.changed, nil
}

// Close closes the file. Append fails from then on.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// readFile returns the events of a file with a number greater than after, and how many lines are none.
func readFile(path string, after int64) (events []Event, broken int, err error) {
	text, err := os.ReadFile(path) //nolint:gosec // in the data directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read events: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		var e Event
		if len(lines.Bytes()) == 0 {
			continue
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			broken++
			continue
		}
		if e.Number > after {
			events = append(events, e)
		}
	}
	return events, broken, lines.Err()
}
