package rpc_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// logged is the host's log; the goroutines of a process that has ended may still write to it.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
	last chan struct{} // closed by the line that says "the end"
	once sync.Once
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(p, []byte("the end")) {
		l.once.Do(func() { close(l.last) })
	}
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRedact_Log wants no secret in the host's log, nor in the error of a start, however a plugin in any language quotes it
// in its log lines. A line that is odd ends no host.
func TestRedact_Log(t *testing.T) {
	for name, line := range map[string]string{
		"plain":           `{"@level":"error","@message":"it said sesame-seed"}`,
		"ascii":           `{"@level":"error","@message":"it said p\u00e4ssword-geheim"}`,
		"quoted in JSON":  `{"@level":"error","@message":"bad","error":"parse \"hunter\\\"2-hunter\""}`,
		"slashes":         `{"@level":"error","@message":"it said \u0073esame\/seed"}`,
		"key":             `{"@level":"error","@message":"bad","sesame-seed":1}`,
		"nested":          `{"@level":"error","@message":"bad","a":{"b":["p\u00E4ssword-geheim"]}}`,
		"number":          `{"@level":"error","@message":"bad","pin":8472}`,
		"in a text":       `[ERROR] got {"a":"p\u00e4ssword-geheim"}`,
		"in a text twice": `[ERROR] got {"a":"p\u00E4ssword-geheim and sesame\/seed"}`,
		"no texts":        `{"@level":5,"@message":["sesame-seed"],"@timestamp":7}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := rpc.Command{Name: "odd", Path: filepath.Join(t.TempDir(), "odd"), SocketDir: t.TempDir(), Redact: new(rpc.Redactor)}
			c.Redact.Hide([]string{"pässword-geheim", `hunter"2-hunter`, "sesame-seed", "sesame/seed", "8472"})
			script := "#!/bin/sh\ncat >&2 <<'E'\n" + line + "\n[INFO] the end\nE\nexit 1\n"
			if err := os.WriteFile(c.Path, []byte(script), 0o700); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
			log := &logged{last: make(chan struct{})}
			c.Log = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log, DisableTime: true})
			_, err := rpc.Start(t.Context(), c)
			if err == nil {
				t.Fatal("a script was taken for a plugin")
			}
			<-log.last
			text := log.String()
			for _, secret := range []string{"ssword-geheim", "2-hunter", "sesame", "8472"} {
				if strings.Contains(text, secret) || strings.Contains(err.Error(), secret) {
					t.Errorf("%s shows %q:\nlog: %s\nerror: %v", line, secret, text, err)
				}
			}
			if !strings.Contains(text, rpc.Redacted) {
				t.Errorf("the line was lost:\n%s", text)
			}
		})
	}
}

// TestRedact_Handshake starts a plugin although its secrets stand in the handshake by chance.
func TestRedact_Handshake(t *testing.T) {
	c := rpctest.Command(t, rpctest.Self(t))
	c.Redact = new(rpc.Redactor)
	c.Redact.Hide([]string{"1", "a", "B", "unix", "grpc"})
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
}
