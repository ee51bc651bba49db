package rpc_test

import (
	"strings"
	"testing"

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
