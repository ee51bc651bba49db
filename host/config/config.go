// Package config reads config.hcl, the description of one device, which may also be several files.
//
// It promises a plain, complete Config (every default filled in, every relative path made absolute from the folder of the
// file that holds it, every plugin's path resolved) or all mistakes at once, each with its file, line and columns and what to
// write instead. It opens the files that it is given and those that they read with file and secretfile, and leaves to others
// whether plugins, folders and ports exist.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// Config is a device's configuration. It is plain data: its readers must not change it.
type Config struct {
	Paths      []string // of files and folders, as given to Load; nil from Parse
	Files      []string // paths of the files, as given or found in a folder that was given
	Library    Library
	Device     Device
	Store      Store
	PluginDir  string // absolute; where plugins lie that have no path of their own
	Models     []Model
	Transports []Transport
	Sync       Sync
	Log        Log
	Telemetry  Telemetry
	Exposed    []string // paths of files that secretfile reads and that every user of the machine can read
}

// Library is the library block. Exactly one of Name and Join is set.
type Library struct {
	Name  string // of the library that this device founds when it belongs to none yet
	Join  bool   // found none: wait until the device has joined one with an invitation
	Range Range
}

// Device is the device block.
type Device struct {
	Name         string
	DataDir      string // absolute
	Range        Range
	DataDirRange Range
}

// Store is the store block.
type Store struct {
	Kind       string     // "sqlite" or "postgres"
	Durability Durability // Full if not given; always of postgres
	DSN        string     // of postgres: where the database is. It may hold a password, and must not be shown
	Schema     string     // of postgres: in which this device's tables are, and no others
	Range      Range
}

// Durability says what a commit survives.
type Durability string

// The durabilities.
const (
	Full   Durability = "full"   // power loss
	Normal Durability = "normal" // a crash of the process; power loss may take the last commits
)

// Model is a model block: a model plugin that the host runs. One plugin may serve several models; it is named once.
type Model struct {
	Name      sdk.ModelName
	Path      string          // absolute path of the plugin's binary
	SHA256    string          // 64 hexadecimal digits that the binary must have, by the block or the lock file; empty: any
	Attach    string          // absolute path of the file of a process that is debugged, to be used while it runs; empty: none
	Config    json.RawMessage // the config block as a JSON object; "{}" if there is none
	Block     Block           // where Config stands, and what of it is secret
	Range     Range
	PathRange Range // of path; of the whole block if there is none

	SHA256Range Range // of SHA256, which may be in the lock file; zero if there is none
}

// Transport is a transport block: a transport plugin that the host runs.
type Transport struct {
	Kind        string          // such as "tcp": which plugin
	Name        string          // such as "lan": names this one here; unique
	Listen      string          // address; empty: this device only dials
	Advertise   []string        // addresses where peers reach it; empty: the host finds them from Listen
	Path        string          // absolute path of the plugin's binary
	SHA256      string          // as in Model
	Attach      string          // as in Model
	Config      json.RawMessage // as in Model
	Block       Block           // as in Model
	Range       Range
	ListenRange Range // of listen; of the whole block if there is none
	PathRange   Range // as in Model
	SHA256Range Range // as in Model
}

// Sync is the sync block.
type Sync struct {
	Heartbeat     time.Duration // between two signs of life on an idle session
	MaxClockDrift time.Duration // how far ahead of this clock a change may be stamped before it is held
	PageBytes     int           // about the size of a page of changes
	WindowBytes   int           // at most so much unacknowledged per peer; PageBytes <= WindowBytes
	Audit         time.Duration // between two audits of devices that are alike; 0: never
	Retention     Retention
	Limits        Limits
	Range         Range // zero if the block is left out
}

// Retention is how long what not every device has acknowledged is kept. 0 is without limit.
type Retention struct {
	Age       time.Duration // of entries of the log and of tombstones
	Bytes     int64         // of the log
	Conflicts time.Duration // of entries of the conflict journal
}

// Log is the log block.
type Log struct {
	Level  string // "trace", "debug", "info", "warn" or "error"
	Format string // "text" or "json"
	File   string // absolute; empty: standard error
	Range  Range  // zero if the block is left out
}

// Telemetry is the telemetry block.
type Telemetry struct {
	Prometheus      string // host:port where metrics and health checks are served over HTTP; empty: nowhere
	Range           Range  // zero if the block is left out
	PrometheusRange Range  // of prometheus; of the whole block if there is none
}

// Range is a place in the file. Lines and columns count from 1; the end is after the last character.
type Range struct {
	File                                       string
	StartLine, StartColumn, EndLine, EndColumn int
}

// String returns "config.hcl:14,3-9", or "config.hcl:14,3-16,2" over several lines.
func (r Range) String() string {
	switch r.StartLine {
	case 0:
		return r.File
	case r.EndLine:
		return fmt.Sprintf("%s:%d,%d-%d", r.File, r.StartLine, r.StartColumn, r.EndColumn)
	}
	return fmt.Sprintf("%s:%d,%d-%d,%d", r.File, r.StartLine, r.StartColumn, r.EndLine, r.EndColumn)
}

// MaxFileBytes is the greatest size of a configuration file.
const MaxFileBytes = 64 << 10

// Source is one file of a configuration.
type Source struct {
	Name    string // path, as messages give it; relative paths in it start from its folder
	Content []byte
}

// Load reads the configuration that lies in paths, as Read finds it, with its lock file. What is given twice in it is a
// mistake. Mistakes come as Diagnostics, all at once.
func Load(paths ...string) (*Config, error) {
	c, err := unlocked((*parser).document, paths)
	if err != nil {
		return nil, err
	}
	if err := onlyLock(paths); err != nil {
		return nil, err
	}
	if err := c.lock(LockPath(paths[0])); err != nil {
		return nil, err
	}
	return c, nil
}

// Mistakes adds to the mistakes of a configuration in paths, which Load returned, those that Absent finds in what could be read
// beside them, so that all are told of at once.
func Mistakes(found Diagnostics, paths ...string) Diagnostics {
	sources, err := Read(paths...)
	if err != nil {
		return found
	}
	c, _ := parseAs(sources, ownEnvironment(), (*parser).document)
	if c == nil {
		return found
	}
	absent, _ := c.Absent()
	all := slices.AppendSeq(slices.Clone(found), maps.Values(absent))
	return all.InOrder()
}

// DataDir returns the data folder of the device whose configuration lies in paths, which is where its running host is reached.
// It evaluates nothing but the device's block, so that who asks needs no secret that others hold, and other mistakes than in
// that block and in the syntax are left to who runs the host.
func DataDir(paths ...string) (string, error) {
	sources, err := Read(paths...)
	if err != nil {
		return "", err
	}
	c, err := parseAs(sources, ownEnvironment(), (*parser).onlyDevice)
	if err != nil {
		return "", err
	}
	return c.Device.DataDir, nil
}

// onlyLock refuses a lock file that lies beside another path than the first: who put it there counts on what it pins.
func onlyLock(paths []string) error {
	used, _ := os.Stat(LockPath(paths[0])) // nil: it is not there
	for _, path := range paths[1:] {
		other, err := os.Stat(LockPath(path))
		if err != nil || used != nil && os.SameFile(used, other) {
			continue
		}
		return sdk.Errorf(sdk.CodeInvalid, "%s would not be read: the lock file of a configuration in several places lies beside the first of them, at %s; move what it pins there, or name its place first", LockPath(path), LockPath(paths[0]))
	}
	return nil
}

// Read returns the files in paths: files, and folders, of which the files NAME.hcl count but for the lock file, in the order
// of their names.
func Read(paths ...string) ([]Source, error) {
	var sources []Source
	seen := make(map[string]bool)
	for _, path := range paths {
		files, err := filesAt(path)
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			source, err := read(name)
			if err != nil {
				return nil, err
			}
			absolute, err := filepath.Abs(name)
			if err == nil && seen[absolute] {
				return nil, sdk.Errorf(sdk.CodeInvalid, "%s is given twice; name it once", name)
			}
			seen[absolute] = true
			sources = append(sources, source)
		}
	}
	return sources, nil
}

// filesAt returns path, or the configuration files in it if it is a folder.
func filesAt(path string) ([]string, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return []string{path}, nil //nolint:nilerr // read says what is wrong with it
	}
	entries, err := os.ReadDir(path)
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && strings.HasSuffix(entry.Name(), ".hcl") && entry.Name() != LockName {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if err == nil && len(files) == 0 {
		err = errors.New("the folder has no file that ends in .hcl")
	}
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: %w", path, reason(err))
	}
	return files, nil
}

func read(path string) (Source, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	switch {
	case os.IsNotExist(err):
		return Source{}, sdk.Errorf(sdk.CodeNotFound, "%s: no such file; make a device with: starling init DIR, or name its file with: --config FILE", path)
	case err != nil:
		return Source{}, sdk.Errorf(sdk.CodeInvalid, "%s: cannot be read: %w", path, reason(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return Source{}, sdk.Errorf(sdk.CodeInvalid, "%s: cannot be read: %w", path, reason(err))
	}
	return Source{Name: path, Content: content}, nil
}

// Parse reads sources, one at least, as one configuration.
func Parse(sources ...Source) (*Config, error) {
	return parse(sources, ownEnvironment())
}

func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}
