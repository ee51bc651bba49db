package supervisor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// maxRuntimePath leaves room for the names below it: a Unix socket's path has at most 104 bytes on some systems.
const maxRuntimePath = 60

// orphanTime is how long a port may be in use by the plugins of a host that was killed: they end within a second of it, or a little
// later where the machine is busy.
const orphanTime = 3 * time.Second

// openSockets opens the listening sockets that the plugins accept on. They stay open while a plugin is away: peers
// wait in the queue. Where descriptors can not be passed on, the plugin opens its socket by itself.
func openSockets(ctx context.Context, plugins []*keeper) error {
	waiting, cancel := context.WithTimeout(ctx, orphanTime)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for _, k := range plugins {
		sockets, err := k.options.openSocket(ctx, k.specNow())
		for errors.Is(err, syscall.EADDRINUSE) && waiting.Err() == nil {
			select {
			case <-again.C:
			case <-waiting.Done():
			}
			sockets, err = k.options.openSocket(ctx, k.specNow())
		}
		if err != nil {
			return err
		}
		k.mu.Lock()
		k.sockets = sockets
		k.mu.Unlock()
	}
	return nil
}

// openSocket opens the socket of one plugin, if it has one.
func (o *Options) openSocket(ctx context.Context, spec Spec) ([]rpc.Socket, error) {
	if spec.Listen == "" || runtime.GOOS == "windows" {
		return nil, nil
	}
	l, err := o.Listen(ctx, spec.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: listen on %s: another program uses that port; choose another or stop it: %w", spec.Name, spec.Listen, err)
	}
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: listen on %q: %w", spec.Name, spec.Listen, err)
	}
	return []rpc.Socket{{Address: spec.Listen, Listener: l}}, nil
}

func listenTCP(ctx context.Context, address string) (*net.TCPListener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil //nolint:forcetypeassert // "tcp"
}

func (k *keeper) closeSockets() {
	k.mu.Lock()
	sockets := k.sockets
	k.sockets = nil
	k.mu.Unlock()
	closeAll(sockets)
}

func closeAll(sockets []rpc.Socket) {
	for _, s := range sockets {
		_ = s.Listener.Close() // nothing is accepted on it here
	}
}

// socketDir returns an empty folder for the sockets between host and plugins: runtimeDir, or one with a shorter path. What a
// host that was killed left of either is removed.
func socketDir(runtimeDir string) (dir string, remove func(), err error) {
	if runtimeDir != "" { // which is this host's alone
		sweepDirs(runtimeDir, "plugin-dir")
		sweepDirs(runtimeDir, describing)
	}
	if len(runtimeDir) > maxRuntimePath || runtimeDir == "" {
		whole, err := filepath.Abs(runtimeDir)
		if err != nil {
			return "", nil, err
		}
		sum := sha256.Sum256([]byte(whole))
		prefix := fmt.Sprintf("starling-%x-", sum[:6])
		if runtimeDir != "" {
			sweepDirs(os.TempDir(), prefix)
		}
		dir, err = os.MkdirTemp("", prefix)
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	if err := os.MkdirAll(runtimeDir, 0o700); err != nil {
		return "", nil, err
	}
	return runtimeDir, func() {}, nil
}

// sweepDirs removes what begins with prefix from a folder. What can not be removed is left: it is in nobody's way.
func sweepDirs(dir, prefix string) {
	entries, _ := os.ReadDir(dir) // none, if it is not there yet
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

func executable(info fs.FileInfo) bool {
	return runtime.GOOS == "windows" || info.Mode().Perm()&0o111 != 0
}
