package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/starling-sync/starling/sdk"
)

// debugName is the file that a plugin which is being debugged writes, unless it is told another.
const debugName = "starling-debug.json"

// debugged is what that file says.
type debugged struct {
	PID      int    `json:"pid"`
	Socket   string `json:"socket"`   // path of a Unix socket, in a folder that its owner alone can enter
	Protocol int    `json:"protocol"` // of the border
}

// debugFile returns the file that args ask for with -debug or -debug=FILE, and whether they do.
func debugFile(args []string) (file string, asked bool) {
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if strings.HasPrefix(arg, "-") && name == "debug" {
			return cmp.Or(value, debugName), true
		}
	}
	return "", false
}

// serveDebug serves a plugin that its author started, under a debugger: whoever reads file can attach, as long as the process
// lives. What the plugin logs and prints stays in its own terminal. It returns the exit status.
func serveDebug(file string, servers []any) int {
	if err := debugServe(file, servers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func debugServe(file string, servers []any) error {
	if runtime.GOOS == "windows" {
		return errors.New("-debug needs a private Unix socket, which this system has not")
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "starling-debug-") // which nobody else can enter
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Setenv(plugin.EnvUnixSocketDir, dir); err != nil {
		return err
	}
	_ = os.Unsetenv("PLUGIN_CLIENT_CERT") // else it would want the certificate of a host that started it
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(cmp.Or(os.Getenv(envLogLevel), "debug")), Output: os.Stderr})
	logTo(logger)
	s, err := prepare(logger, servers)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ready, closed := make(chan *plugin.ReattachConfig, 1), make(chan struct{})
	go plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake(),
		Plugins:         plugin.PluginSet{pluginName: &border{server: s}},
		Logger:          hclog.NewNullLogger(),
		GRPCServer:      s.grpc,
		Test:            &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: ready, CloseCh: closed},
	})
	select {
	case <-closed:
		return errors.New("the plugin could not be served: see the log")
	case at := <-ready:
		if err := writeDebug(file, debugged{PID: os.Getpid(), Socket: at.Addr.String(), Protocol: at.ProtocolVersion}); err != nil {
			return err
		}
		defer removeDebug(file)
		fmt.Fprintf(os.Stderr, "waiting for a host, in process %d. In the plugin's block in config.hcl write\n\n    attach = %q\n\nand: starling reload (or, if it is there already: starling plugin restart NAME). Ctrl-C ends it.\n", os.Getpid(), file)
	}
	<-closed
	return nil
}

// writeDebug writes the file, for its owner alone.
func writeDebug(file string, d debugged) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// removeDebug removes the file, unless another process has written its own.
func removeDebug(file string) {
	if d, err := readDebug(file); err == nil && d.PID == os.Getpid() {
		_ = os.Remove(file)
	}
}

func readDebug(file string) (d debugged, err error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(text, &d)
}

// Attach connects to a plugin that was started by hand with -debug and has written file, and blocks until it answers: for ever,
// if a debugger has stopped it, or until ctx ends. Its batches have no deadline. Ending the Process ends the connection, and
// never the plugin. sdk.CodeNotFound says that no such plugin runs; sdk.CodeInvalid that file is damaged, or that others than this process's user could
// have written file, or listen where it says.
func Attach(ctx context.Context, c Command, file string) (*Process, error) {
	d, err := readDebug(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, sdk.Errorf(sdk.CodeNotFound, "there is no %s: nobody debugs the plugin; start it with -debug", file)
	case err != nil:
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: %w; start the plugin anew with -debug", file, err)
	case d.Protocol != protocolVersion:
		return nil, sdk.Errorf(sdk.CodeUnsupported, "the plugin of %s speaks version %d of the protocol, this host version %d; rebuild it against this version of Starling", file, d.Protocol, protocolVersion)
	}
	for _, path := range []string{file, filepath.Dir(d.Socket), d.Socket} {
		err := ownAlone(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, sdk.Errorf(sdk.CodeNotFound, "%s is left over: process %d, which wrote it, is gone; start the plugin with -debug", file, d.PID)
		}
		if err != nil {
			return nil, err
		}
	}
	conn, err := net.Dial("unix", d.Socket) // which does not wait for the process
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "%s is left over: process %d, which wrote it, does not listen any more; start the plugin with -debug", file, d.PID)
	}
	_ = conn.Close()
	return attach(ctx, c, d)
}

func attach(ctx context.Context, c Command, d debugged) (*Process, error) {
	options := append(dialOptions(), c.Redact.interceptors()...)
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(0))
	conn, err := grpc.NewClient("unix:"+d.Socket, options...)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "attach to process %d: %w", d.PID, err)
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, sdk.Errorf(sdk.CodeUnavailable, "attach to process %d: %w", d.PID, ctx.Err())
		}
	}
	p := &Process{attached: &attachment{conn: conn, pid: d.PID}, client: newClient(conn), done: make(chan struct{})}
	p.client.name = c.Name // and no timeout
	go func() {
		defer close(p.done)
		conn.WaitForStateChange(context.Background(), connectivity.Ready) // it breaks with the process, or Kill closes it
		_ = conn.Close()
	}()
	return p, nil
}

// attachment is a connection to a process that this one did not start.
type attachment struct {
	conn *grpc.ClientConn
	pid  int
}

// Debugged reports whether the process was attached to: its author runs it, under a debugger.
func (p *Process) Debugged() bool { return p.attached != nil }
