package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/starling-sync/starling/sdk"
)

// MarkFile is the name of the mark's file in the data directory.
const MarkFile = "library.json"

// Mark says beside the database, in the data directory, which library this device belongs to, so that a database that knows
// nothing of the device is told from that of a new device.
//
// It is durable before the database says the same: mark exists, or no database of this device ever said that it belongs to one.
type Mark struct {
	LibraryID LibraryID `json:"library_id"`
	Library   string    `json:"library"` // its name
	Store     string    `json:"store"`   // where the database was when it was last opened, for people; without a password
}

// ReadMark returns the mark in dir, and whether there is one.
func ReadMark(dir string) (mark Mark, ok bool, err error) {
	path := filepath.Join(dir, MarkFile)
	content, err := os.ReadFile(path) //nolint:gosec // the operator's data directory
	if errors.Is(err, fs.ErrNotExist) {
		return mark, false, nil
	}
	if err != nil {
		return mark, false, sdk.Errorf(sdk.CodeInvalid, "read which library this device belongs to: %w", err)
	}
	if err := json.Unmarshal(content, &mark); err != nil {
		return mark, false, sdk.Errorf(sdk.CodeInvalid, "%s: it does not say which library this device belongs to: %w; bring the file back from a backup, or remove it if this device's database is the right one", path, err)
	}
	return mark, true, nil
}

// WriteMark stores mark in dir in place of the one that may be there, complete or not at all, and returns when it is durable.
// It writes nothing where the same is there already.
func WriteMark(dir string, mark Mark) error {
	content, err := json.MarshalIndent(mark, "", "  ")
	if err != nil {
		return sdk.Errorf(sdk.CodeInternal, "note which library this device belongs to: %w", err)
	}
	content = append(content, '\n')
	path := filepath.Join(dir, MarkFile)
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) { //nolint:gosec // the operator's data directory
		return nil
	}
	if err := replaceFile(path, content); err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "note which library this device belongs to: %w", err)
	}
	return nil
}

func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already after the rename
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
