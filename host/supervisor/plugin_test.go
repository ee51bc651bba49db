//go:build unix

package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// The test binary is also the plugin and the host of these tests: these variables say which.
const (
	envMode = "SUPERVISOR_TEST_MODE"
	envHost = "SUPERVISOR_TEST_HOST"
	envSwap = "SUPERVISOR_TEST_SWAP"

	envReplace = "SUPERVISOR_TEST_REPLACE"
	envStop    = "SUPERVISOR_TEST_STOP"
)

// stopsHere is what a host prints when it has come to the stage that envStop names, where it stays.
const stopsHere = "stops here"

func TestMain(m *testing.M) {
	if rpc.StartedByHost() {
		switch mode() {
		case "crash-start":
			os.Exit(3)
		case "other-model":
			rpc.Serve(model{name: "other"}, loopback{})
			return
		case "newer", "newer-slow":
			rpc.Serve(model{version: 2}, loopback{})
			return
		case "prints":
			fmt.Println("hello from main")
		case "hangs": // at its start
			fmt.Fprintln(os.Stderr, "waiting for a lock")
			time.Sleep(time.Hour)
		case "exits":
			fmt.Fprintln(os.Stderr, "no room for me")
			os.Exit(3)
		case "child": // a grandchild of the host that would live on
			child := exec.Command("sleep", "1000")
			if err := child.Start(); err != nil {
				panic(err)
			}
			hclog.Default().Info("child started")
			rpc.Serve(model{child: child.Process.Pid}, loopback{})
			return
		}
		rpc.Serve(model{}, loopback{})
		return
	}
	if os.Getenv(envMode) == "debug" { // started by hand, with -debug
		rpc.Serve(model{}, loopback{})
		return
	}
	if dir := os.Getenv(envHost); dir != "" {
		hostMain(dir, os.Getenv(envSwap))
		return
	}
	goleak.VerifyTestMain(m)
}

// mode is what the plugin of a test is to do: its binary's name says so, or the environment.
func mode() string {
	if bad := filepath.Base(os.Args[0]); bad == "note" && os.Getenv(envMode) == "" { // its end says, where its name can not
		if text, err := os.ReadFile(os.Args[0]); err == nil && strings.HasSuffix(string(text), "crash-later") {
			return "crash-later"
		}
	}
	if name := filepath.Base(os.Args[0]); !strings.HasPrefix(name, "supervisor") {
		name, _, _ = strings.Cut(name, ".")
		return name
	}
	return os.Getenv(envMode)
}

// model is a model whose doc names its process, and that panics and takes configuration on request.
type model struct {
	child   int
	name    sdk.ModelName // empty: note
	version uint32        // 0: 1
}

func (m model) Describe(context.Context) (sdk.Description, error) {
	return sdk.Description{
		Model: cmp.Or(m.name, "note"), Version: cmp.Or(m.version, 1), Ownership: sdk.DeviceOwned, Doc: strconv.Itoa(m.child),
	}, nil
}

// strict says that the process is configured to refuse.
var strict atomic.Bool

// batches counts those of a process that fails at the hundredth.
var batches atomic.Int64

func (model) Configure(_ context.Context, config json.RawMessage) error {
	strict.Store(strings.Contains(string(config), "strict"))
	const later = time.Second // when the probe is over
	switch mode() {
	case "crash-later":
		time.AfterFunc(later, func() { os.Exit(4) })
	case "stop-later":
		time.AfterFunc(later, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
	}
	return model{}.CheckConfig(context.Background(), config)
}

func (model) CheckConfig(_ context.Context, config json.RawMessage) error {
	if strings.Contains(string(config), "token") {
		return sdk.Errorf(sdk.CodeInvalid, "the server does not take %s", config)
	}
	if strings.Contains(string(config), "colour") {
		return sdk.Errorf(sdk.CodeInvalid, "unknown key colour; did you mean color?")
	}
	return nil
}

func (model) ApplyStateChange(context.Context, sdk.StateChanges) (sdk.StateResult, error) {
	panic("boom")
}

func (model) ApplySharedChange(_ context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if strict.Load() {
		return sdk.SharedResult{Refused: []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "strict"}}}, nil
	}
	if slices.Contains(in.Batch.Columns, "hang") {
		<-make(chan struct{})
	}
	mode, batch := mode(), batches.Add(1)
	switch {
	case mode == "slow-hundredth" && batch >= 100:
		time.Sleep(60 * time.Millisecond)
	case mode == "slow-local" && in.Local:
		time.Sleep(60 * time.Millisecond)
	case mode == "newer-slow":
		time.Sleep(600 * time.Millisecond)
	case strings.Contains(mode, "hundredth") && batch == 100:
		switch mode {
		case "crash-hundredth":
			os.Exit(5)
		case "panic-hundredth":
			panic("boom")
		case "hang-hundredth":
			<-make(chan struct{})
		case "wrong-hundredth":
			return sdk.SharedResult{Refused: []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "no"}}}, nil
		case "refuse-hundredth":
			return sdk.SharedResult{}, sdk.Errorf(sdk.CodeInvalid, "no")
		}
	}
	return sdk.SharedResult{}, nil
}

// loopback is a transport over TCP that greets each connection with its process id.
type loopback struct{}

func (loopback) Name() string { return "loopback" }

func (loopback) Dial(context.Context, string) (sdk.Conn, error) {
	return nil, errors.New("no dialling")
}

func (loopback) Listen(_ context.Context, _ string, l net.Listener) (sdk.Listener, error) {
	return loopListener{l}, nil
}

type loopListener struct{ net.Listener }

func (l loopListener) Address() string { return l.Addr().String() }

func (l loopListener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	return loopConn{c}, err
}

type loopConn struct{ net.Conn }

func (c loopConn) RemoteAddress() string { return c.RemoteAddr().String() }

// hostMain is a host process: it prints its plugin's process id, and the steps of a swap to another build if it is given
// one, and goes on until it is killed.
func hostMain(dir, swap string) {
	w := newWatcher()
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	o := Options{Log: hclog.NewNullLogger(), Observer: w, Now: time.Now, StoreDir: filepath.Join(dir, "plugins"), RuntimeDir: filepath.Join(dir, "run")}
	soak := time.Hour
	stop := Stage(os.Getenv(envStop))
	if slices.Contains([]Stage{Watching, chosen, Settling, Done}, stop) {
		soak = 50 * time.Millisecond
	}
	o.reached = func(at Stage) {
		if at == stop {
			fmt.Println(stopsHere)
			select {}
		}
	}
	s, err := New(o, []Spec{{Name: "note", Path: self}})
	if err != nil {
		panic(err)
	}
	if swap != "" {
		s, err = New(o, []Spec{{Name: "note", Path: filepath.Join(dir, "note")}})
		if err != nil {
			panic(err)
		}
	}
	go func() {
		fmt.Println((<-w.up).PID)
		if swap == "" {
			return
		}
		until := func() bool { return s.Status()[0].State == Running }
		for !until() {
			time.Sleep(time.Millisecond)
		}
		if bad := os.Getenv(envReplace); bad != "" {
			if err := replaceFile(swap, bad); err != nil {
				panic(err)
			}
		}
		err := s.Swap(context.Background(), Swap{Name: "note", Path: swap, Soak: soak}, func(step Step) { fmt.Println(step.Stage) })
		fmt.Println("over", err)
	}()
	panic(s.Run(context.Background()))
}
