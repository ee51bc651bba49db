package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/starling-sync/starling/sdk"
)

// incoming begins the names of copies under way in the store.
const incoming = "incoming-"

// binary is a plugin's binary in the store, where nobody changes it: <store>/sha256/<sum>/<name>.
type binary struct {
	path   string
	sum    string // SHA-256, in hexadecimal; empty: not staged yet
	origin string // where it was taken from
}

// stagedMode is of every copy in the store: nobody writes to it, and it can be executed.
const stagedMode fs.FileMode = 0o555

// intact reports whether the copy in the store can be run as what it was staged as: the same bytes, in a file of its own. One
// that has lost its mode gets it back first; a file system that keeps no modes may say another, as long as it can be executed.
func (b binary) intact() bool {
	if b.sum == "" {
		return false
	}
	info, err := os.Lstat(b.path)
	if err == nil && info.Mode().IsRegular() && runtime.GOOS != "windows" && info.Mode().Perm() != stagedMode {
		_ = os.Chmod(b.path, stagedMode) // what has come of it counts
		info, err = os.Lstat(b.path)
	}
	if err != nil || !info.Mode().IsRegular() || !executable(info) {
		return false
	}
	sum, err := hashOf(b.path) // last: from now on nobody writes to it
	return err == nil && sum == b.sum
}

// stage returns source's copy in the store. The sum is of the bytes copied, so what is run is what was summed. A copy that is
// there already is read again, and nothing is written: a start with the plugins of the last one is what happens most.
func stage(store, source string) (_ binary, err error) {
	in, err := os.Open(source) //nolint:gosec // the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		return binary{}, sdk.Errorf(sdk.CodeNotFound, "there is no plugin binary at %s", source)
	}
	if errors.Is(err, fs.ErrPermission) {
		return binary{}, sdk.Errorf(sdk.CodeInvalid, "plugin binary: %w", err)
	}
	if err != nil {
		return binary{}, sdk.Errorf(sdk.CodeUnavailable, "plugin binary: %w", err)
	}
	defer func() { _ = in.Close() }()
	if err := checkSource(in, source); err != nil {
		return binary{}, err
	}
	if b, there := staged(store, source); there {
		return b, nil
	}
	root := filepath.Join(store, "sha256")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return binary{}, fmt.Errorf("plugin store: %w", err)
	}
	temp, err := os.CreateTemp(root, incoming+"*")
	if err != nil {
		return binary{}, fmt.Errorf("plugin store: %w", err)
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone already if it was moved
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(temp, hash), in)
	if err = errors.Join(err, temp.Chmod(stagedMode), temp.Close()); err != nil {
		return binary{}, fmt.Errorf("copy %s to the plugin store: %w", source, err)
	}
	b := binary{sum: hex.EncodeToString(hash.Sum(nil)), origin: source}
	dir := filepath.Join(root, b.sum)
	b.path = filepath.Join(dir, filepath.Base(source))
	if b.intact() { // another plugin's keeper has staged it meanwhile, and may run it
		return b, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return binary{}, fmt.Errorf("plugin store: %w", err)
	}
	if info, err := os.Lstat(b.path); err == nil && info.IsDir() { // which no file takes the place of
		_ = os.RemoveAll(b.path) // renaming says what is wrong
	}
	if err := os.Rename(temp.Name(), b.path); err != nil {
		return binary{}, fmt.Errorf("plugin store: %w", err)
	}
	return b, nil
}

// staged returns source's copy in the store, if it is there unharmed. Source is read only if the store has a copy of that name
// and size: a new build is read once, to copy it.
func staged(store, source string) (binary, bool) {
	root, name := filepath.Join(store, "sha256"), filepath.Base(source)
	builds, _ := os.ReadDir(root) // none, if there is no store yet
	info, err := os.Stat(source)
	if err != nil || !slices.ContainsFunc(builds, func(e fs.DirEntry) bool {
		other, err := os.Stat(filepath.Join(root, e.Name(), name))
		return err == nil && other.Size() == info.Size()
	}) {
		return binary{}, false
	}
	sum, err := hashOf(source)
	if err != nil {
		return binary{}, false // copying it says what is wrong
	}
	b := binary{sum: sum, origin: source, path: filepath.Join(root, sum, name)}
	return b, b.intact()
}

// sweep removes from the store what is not among kept and what none of sources would be staged as now: builds of the past, and
// copies that a host which was killed did not finish. Call it before anything is staged.
func sweep(store string, sources, kept []string) error {
	left, _ := filepath.Glob(filepath.Join(store, incoming+"*")) // the pattern is well formed
	for _, path := range left {
		_ = os.Remove(path) // a choice that was being written
	}
	root := filepath.Join(store, "sha256")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	wanted := sync.OnceValue(func() []string { return sumsOf(sources) }) // it is read only where something may have to go
	for _, e := range entries {
		sum, ours := hex.DecodeString(e.Name())
		unfinished := strings.HasPrefix(e.Name(), incoming)
		build := ours == nil && len(sum) == sha256.Size
		if unfinished || build && !slices.Contains(kept, e.Name()) && !slices.Contains(wanted(), e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(root, e.Name())))
		}
	}
	return err
}

// sumsOf returns the sums of those sources that can be read; staging says what is wrong with the others.
func sumsOf(sources []string) (sums []string) {
	for _, source := range sources {
		if info, err := os.Stat(source); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if sum, err := hashOf(source); err == nil {
			sums = append(sums, sum)
		}
	}
	return sums
}

// checkSource refuses what rpc.Start would refuse, with the name that the operator knows: the copy is always executable.
func checkSource(in *os.File, source string) error {
	info, err := in.Stat()
	if err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "plugin binary: %w", err)
	}
	if !info.Mode().IsRegular() {
		return sdk.Errorf(sdk.CodeInvalid, "%s is not a plugin binary: it is no regular file", source)
	}
	if executable(info) {
		return nil
	}
	return sdk.Errorf(sdk.CodeInvalid, "%s is not executable; run chmod +x on it if it is a plugin", source)
}

func hashOf(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // in the store
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
