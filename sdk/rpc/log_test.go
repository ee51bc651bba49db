package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// TestStart_Log wants each line that a plugin prints while it serves in the host's log under the plugin's name, and one that
// is an entry at its level, however the lines come.
func TestStart_Log(t *testing.T) {
	const entry = `{"@level":"warn","@message":"json line","@timestamp":"2026-11-24T18:00:00.000000Z","k":"v"}`
	for name, redact := range map[string]*rpc.Redactor{"with secrets": new(rpc.Redactor), "without": nil} {
		t.Run(name, func(t *testing.T) {
			log := &logged{last: make(chan struct{})}
			c := rpctest.Command(t, rpctest.Self(t))
			c.Name, c.Redact = "odd", redact
			c.Log = hclog.New(&hclog.LoggerOptions{Name: "host", Level: hclog.Info, Output: log, DisableTime: true})
			p, err := rpc.Start(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			info, err := p.Client().Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m := p.Client().Model(info.Models[0])
			long := strings.Repeat("x", 3000) // of which go-plugin makes several chunks
			for _, text := range []string{"plain line\n" + entry + "\n{\"a\":1}\n" + long + "\n", "ha", "lf\n", "the end\n"} {
				if _, err := m.ApplyStateChange(t.Context(), command("print "+text)); err != nil {
					t.Fatal(err)
				}
			}
			<-log.last
			for _, want := range []string{
				"[INFO]  host.odd: plain line\n", "[WARN]  host.odd: json line: k=v timestamp=2026-11-24T18:00:00.000Z\n",
				"[INFO]  host.odd: {\"a\":1}\n", "[INFO]  host.odd: " + long + "\n", "[INFO]  host.odd: half\n", "[INFO]  host.odd: the end\n",
			} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("no line %q in:\n%s", want, log)
				}
			}
		})
	}
}

// TestStart_OwnErrors wants what a process writes to its standard error by itself, as one in another language does, in the host's log
// under the plugin's name and at a level that is logged by default, a line each.
func TestStart_OwnErrors(t *testing.T) {
	for name, redact := range map[string]*rpc.Redactor{"with secrets": new(rpc.Redactor), "without": nil} {
		t.Run(name, func(t *testing.T) {
			log := &logged{last: make(chan struct{})}
			c := rpctest.Command(t, rpctest.Self(t))
			c.Name, c.Redact = "odd", redact
			c.Log = hclog.New(&hclog.LoggerOptions{Name: "host", Level: hclog.Info, Output: log, DisableTime: true})
			p, err := rpc.Start(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			info, err := p.Client().Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			long := strings.Repeat("x", 100<<10)
			for _, text := range []string{
				"Traceback (most recent call last):\n  File \"tag.py\", line 3\n\nValue", "Error: no\n[WARN] careful\n[DEBUG] deep\n",
				`{"@level":"warn","@message":"json line","k":"v"}` + "\n" + `{"@level":5,"@message":["odd"],"@timestamp":7}` + "\n" + long + "\n",
				"panic: boom\n\n\tmain.go:7\nthe end",
			} {
				if _, err := p.Client().Model(info.Models[0]).ApplyStateChange(t.Context(), command("write "+text)); err != nil {
					t.Fatal(err)
				}
			}
			p.Kill()
			<-log.last // though its line has no end
			text := log.String()
			for _, want := range []string{
				"[INFO]  host.odd: Traceback (most recent call last):\n[INFO]  host.odd:   File \"tag.py\", line 3\n[INFO]  host.odd: ValueError: no\n[WARN]  host.odd: careful\n",
				"[WARN]  host.odd: json line: k=v\n", "odd", "[INFO]  host.odd: xxx",
				"[ERROR] host.odd: panic: boom\n[ERROR] host.odd: \tmain.go:7\n[ERROR] host.odd: the end\n",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("no line %q in:\n%.2000s", want, text)
				}
			}
			if n := strings.Count(text, "x"); strings.Contains(text, "deep") || n < len(long) {
				t.Errorf("%d of %d bytes of the long line, or what is for debugging:\n%.2000s", n, len(long), text)
			}
		})
	}
}

// logAll says something by each logger that an author may know.
func logAll() {
	slog.Debug("slog debug")
	slog.Info("slog info", "k", 1)
	slog.Warn("slog warn", "took", 1500*time.Millisecond, "why", errors.New("a reason"))
	slog.With("a", "b").WithGroup("g").Error("slog error", slog.Group("h", "k", "v"), "secret", "sesame-seed")
	slog.Log(context.Background(), slog.LevelError+4, "slog worse")
	hclog.Default().Warn("hclog warn", "k", "v")
	log.Print("log print")
	log.Print("[ERROR] log error")
	println("built in")
	fmt.Println("fmt print\nthe end")
}

// TestServe_Loggers wants what a plugin says by the loggers of Go at its level in the host's log, with its attributes, and no secret.
func TestServe_Loggers(t *testing.T) {
	log := &logged{last: make(chan struct{})}
	c := rpctest.Command(t, rpctest.Self(t))
	c.Name, c.Redact = "odd", new(rpc.Redactor)
	c.Redact.Hide([]string{"sesame-seed"})
	c.Log = hclog.New(&hclog.LoggerOptions{Name: "host", Level: hclog.Info, Output: log, DisableTime: true})
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	info, err := p.Client().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Client().Model(info.Models[0]).ApplyStateChange(t.Context(), command("log")); err != nil {
		t.Fatal(err)
	}
	<-log.last
	p.Kill() // which waits for what came by another way than the end
	text := regexp.MustCompile(`:? timestamp=\S+`).ReplaceAllString(log.String(), "")
	for _, want := range []string{
		"[INFO]  host.odd: slog info: k=1\n", "[WARN]  host.odd: slog warn: took=1.5s why=\"a reason\"\n",
		"[ERROR] host.odd: slog error: a=b g.h.k=v g.secret=\"" + rpc.Redacted + "\"\n", "[ERROR] host.odd: slog worse\n", "[WARN]  host.odd: hclog warn: k=v\n",
		"[INFO]  host.odd: log print\n", "[ERROR] host.odd: log error\n", "[INFO]  host.odd: fmt print\n", "[INFO]  host.odd: built in\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "slog debug") || strings.Contains(text, "sesame") {
		t.Errorf("what is for debugging, or a secret:\n%s", text)
	}
}

// TestProcess_Reason wants a panic that ended no process out of the reason why it ended later.
func TestProcess_Reason(t *testing.T) {
	p, models := start(t)
	for _, name := range []string{"panic", "exit"} {
		if _, err := models["probe"].ApplyStateChange(t.Context(), command(name)); err == nil {
			t.Fatalf("no error of %s", name)
		}
	}
	if got := p.Reason(); !strings.HasPrefix(got, "exit status 3") || strings.Contains(got, "recovered") {
		t.Errorf("reason %q", got)
	}
}
