package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
)

const (
	socketName  = "control.sock"
	pointerName = "control.path" // holds the socket's path where the data directory's own is too long
	maxPath     = 103            // bytes that every system takes in a socket's address (macOS: 104 with the final NUL)
	probe       = time.Second
)

// Listener is a listener whose Accept has a deadline, so that who serves on it can be relieved while it stays open.
type Listener interface {
	net.Listener
	SetDeadline(at time.Time) error
}

// Listen opens the socket of the host whose data directory is dataDir, an absolute path that only its owner can
// enter. A socket left by a host that was killed is replaced; one that somebody answers on is CodeUnavailable. Closing
// the listener removes the socket.
//
// Where dataDir is too long for a socket's address, the socket lies in a new private folder under the folder for
// temporary files, and a pointer file in dataDir names it.
func Listen(dataDir string) (Listener, error) {
	path, err := findSocket(dataDir)
	if err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", path, probe); err == nil {
		_ = conn.Close()
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: another host is running on this data directory; stop it first", dataDir)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the old control socket can not be removed: %w", path, err)
	}
	pointer := filepath.Join(dataDir, pointerName)
	if path != filepath.Join(dataDir, socketName) {
		_ = os.Remove(filepath.Dir(path)) // of the killed host; only if empty
		_ = os.Remove(pointer)
	}
	folder := ""
	if path = filepath.Join(dataDir, socketName); len(path) > maxPath {
		if folder, err = os.MkdirTemp("", "starling-"); err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "make a folder for the control socket: %w", err)
		}
		path = filepath.Join(folder, socketName)
		if err := os.WriteFile(pointer, []byte(path+"\n"), 0o600); err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: can not be written: %w", pointer, err)
		}
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the control socket can not be opened: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the control socket can not be closed to others: %w", path, err)
	}
	if folder != "" {
		return &borrowed{UnixListener: listener, folder: folder, pointer: pointer}, nil
	}
	return listener, nil
}

// borrowed removes the folder made for its socket.
type borrowed struct {
	*net.UnixListener
	folder, pointer string
}

func (b *borrowed) Close() error {
	err := b.UnixListener.Close()
	_ = os.Remove(b.pointer)
	_ = os.Remove(b.folder)
	return err
}

// findSocket returns where the host on dataDir listens, or would.
func findSocket(dataDir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dataDir, pointerName)) //nolint:gosec // in the owner's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(dataDir, socketName), nil
	}
	if err != nil {
		return "", sdk.Errorf(sdk.CodeUnavailable, "%s: %w", filepath.Join(dataDir, pointerName), err)
	}
	path := strings.TrimSpace(string(raw))
	if filepath.Base(path) != socketName || !filepath.IsAbs(path) {
		return "", sdk.Errorf(sdk.CodeInvalid, "%s does not name a control socket; remove it", filepath.Join(dataDir, pointerName))
	}
	return path, nil
}
