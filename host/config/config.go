// Package config reads config.hcl, the description of one device.
//
// It promises a plain, complete Config (every default filled in, every relative path made absolute from the file's
// folder, every plugin's path resolved) or all mistakes at once, each with its file, line and columns and what to
// write instead. It opens no file but the one it is given and leaves to others whether plugins, folders and ports exist.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// Config is a device's configuration. It is plain data: its readers must not change it.
type Config struct {
	File       string // path of the file, as given
	Library    Library
	Device     Device
	Store      Store
	PluginDir  string // absolute; where plugins lie that have no path of their own
	Models     []Model
	Transports []Transport
	Sync       Sync
	Log        Log
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
	Kind       string     // "sqlite"
	Durability Durability // Full if not given
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
	SHA256    string          // 64 hexadecimal digits that the binary must have; empty: any
	Config    json.RawMessage // the config block as a JSON object; "{}" if there is none
	Range     Range
	PathRange Range // of path; of the whole block if there is none
}

// Transport is a transport block: a transport plugin that the host runs.
type Transport struct {
	Kind        string          // such as "tcp": which plugin
	Name        string          // such as "lan": names this one here; unique
	Listen      string          // address; empty: this device only dials
	Advertise   []string        // addresses where peers reach it; empty: the host finds them from Listen
	Path        string          // absolute path of the plugin's binary
	SHA256      string          // as in Model
	Config      json.RawMessage // as in Model
	Range       Range
	ListenRange Range // of listen; of the whole block if there is none
	PathRange   Range // as in Model
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

// Load reads the file at path. Mistakes in it come as Diagnostics, all at once.
func Load(path string) (*Config, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	switch {
	case os.IsNotExist(err):
		return nil, sdk.Errorf(sdk.CodeNotFound, "%s: no such file; make a device with: starling init DIR, or name its file with: --config FILE", path)
	case err != nil:
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: cannot be read: %w", path, reason(err))
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: cannot be read: %w", path, reason(err))
	}
	return Parse(path, src)
}

// Parse reads src as the content of the file named filename, whose folder relative paths start from.
func Parse(filename string, src []byte) (*Config, error) {
	return parse(filename, src, environment{lookup: os.LookupEnv, executable: os.Executable})
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
