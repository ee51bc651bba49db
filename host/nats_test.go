package main_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// natsServerBinary builds the NATS server once for all tests of this package.
var natsServerBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "nats-server")
	return path, rpctest.BuildAt(path, "github.com/nats-io/nats-server/v2", "-ldflags", "-s -w")
})

// natsServer is a NATS server's process at a fixed address.
type natsServer struct {
	binary, address, config string
	process                 *exec.Cmd
}

// newNATSServer makes a server that lets alice, bob and carol do what docs/fleet.md says that they need, and nothing else.
func newNATSServer(t *testing.T) *natsServer {
	t.Helper()
	binary, err := natsServerBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := &natsServer{binary: binary, address: clustertest.FreeAddress(t), config: filepath.Join(t.TempDir(), "nats.conf")}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	var users []string
	for _, name := range []string{"alice", "bob", "carol"} {
		users = append(users, fmt.Sprintf(`{ user: %[1]s, password: "secret of %[1]s", permissions: {
			publish: ["starling.home.dial.*", "starling.home.inbox.>"]
			subscribe: ["starling.home.dial.%[1]s", "starling.home.inbox.%[1]s.*"] } }`, name))
	}
	text := fmt.Sprintf("host: %q\nport: %s\nauthorization { users: [\n%s\n] }\n", host, port, strings.Join(users, "\n"))
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill(t) })
	return s
}

// start starts the server and waits until it takes connections.
func (s *natsServer) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(s.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.process = exec.Command(s.binary, "-c", s.config)
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "nats-server takes connections", func() error {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func (s *natsServer) kill(t *testing.T) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = s.process.Wait()
	s.process = nil
}

// throughNATS has a device, which must not run yet, reach others through the server, and not over TCP unless also is
// set.
func throughNATS(t *testing.T, d *clustertest.Device, s *natsServer, also bool) {
	t.Helper()
	config, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	tcp := fmt.Sprintf("transport \"tcp\" \"lan\" {\n  listen = %q\n}\n", d.Listen)
	nats := fmt.Sprintf(`transport "nats" "fleet" {
  listen = %[1]q
  config {
    servers  = ["nats://%[2]s"]
    user     = %[1]q
    password = env("NATS_PASSWORD", "secret of %[1]s")
    subject  = "starling.home"
    inbox    = "starling.home.inbox.%[1]s"
  }
}
`, d.Name, s.address)
	if also {
		nats = tcp + nats
	}
	changed := strings.Replace(string(config), tcp, nats, 1)
	if changed == string(config) {
		t.Fatalf("%s has no block\n%s", d.Config(), tcp)
	}
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNATS_Hosts has two devices that reach one another through a NATS server alone pair and sync, write while the
// server is dead, and be equal again once it is back.
func TestNATS_Hosts(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	server := newNATSServer(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	throughNATS(t, alice, server, false)
	throughNATS(t, bob, server, false)

	// Both start before the server does, and say what they wait for.
	alice.Start(t)
	bob.Start(t)
	clustertest.Eventually(t, "alice says that there is no server", func() error {
		return statusSays(alice, "unhealthy", server.address, "connection refused")
	})
	code := strings.TrimSpace(alice.Run(t, "invite"))
	if _, err := bob.TryRun("join", code); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("join without a server: %v", err)
	}
	server.start(t)
	began := time.Now()
	clustertest.Eventually(t, "alice is connected", func() error { return statusSays(alice, `"running"`) })
	clustertest.Eventually(t, "bob joins", func() error { // until alice listens
		_, err := bob.TryRun("join", code)
		return err
	})
	t.Logf("paired %s after the server had started", time.Since(began).Round(time.Millisecond))

	folder := t.TempDir()
	writeFiles(t, folder, "a.txt", "b/c.txt")
	alice.Run(t, "location", "add", folder)
	tag := bob.Run(t, "put", "tag", `{"name":"work"}`)
	clustertest.Eventually(t, "entries at bob", func() error {
		if n := len(bob.List(t, "entry")); n < 4 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	clustertest.WaitEqual(t, alice, bob)

	server.kill(t)
	for _, d := range []*clustertest.Device{alice, bob} {
		clustertest.Eventually(t, d.Name+" notices", func() error { return statusSays(d, "unhealthy", "connection refused") })
	}
	alice.Run(t, "put", "tag", `{"name":"job"}`, "--id", tag)
	bob.Run(t, "put", "tag", `{"color":"blue"}`, "--id", tag)
	for i := range 20 {
		alice.Run(t, "put", "tag", fmt.Sprintf(`{"name":"a%d"}`, i))
		bob.Run(t, "put", "tag", fmt.Sprintf(`{"name":"b%d"}`, i))
	}
	server.start(t)
	began = time.Now()
	clustertest.WaitEqual(t, alice, bob)
	t.Logf("equal %s after the server was back", time.Since(began).Round(time.Millisecond))
	for _, d := range []*clustertest.Device{alice, bob} {
		tags := d.List(t, "tag")
		if got := tags[tag]; len(tags) != 41 || got["name"] != "job" || got["color"] != "blue" {
			t.Errorf("%s has %d tags, the first %v; want 41, job, blue", d.Name, len(tags), got)
		}
		if text := d.Run(t, "status"); !strings.Contains(text, "fleet") {
			t.Errorf("%s does not reach its peer over fleet:\n%s", d.Name, text)
		}
	}

	// A server that is killed again and again loses nothing either.
	for i := range 3 {
		alice.Run(t, "put", "tag", fmt.Sprintf(`{"name":"c%d"}`, i))
		server.kill(t)
		bob.Run(t, "put", "tag", fmt.Sprintf(`{"name":"d%d"}`, i))
		server.start(t)
	}
	clustertest.WaitEqual(t, alice, bob)
	if n := len(bob.List(t, "tag")); n != 47 {
		t.Errorf("bob has %d tags, want 47", n)
	}
}

// TestNATS_Relay has a device on NATS alone and one on TCP alone be equal through a third that is on both.
func TestNATS_Relay(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	server := newNATSServer(t)
	server.start(t)
	alice := clustertest.NewDevice(t, path, "alice", "--join")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	carol := clustertest.NewDevice(t, path, "carol", "--library", "home")
	throughNATS(t, alice, server, false)
	throughNATS(t, carol, server, true)
	for _, d := range []*clustertest.Device{carol, alice, bob} {
		d.Start(t)
	}
	clustertest.Pair(t, carol, alice, bob)
	alice.Run(t, "put", "tag", `{"name":"from alice"}`)
	bob.Run(t, "put", "tag", `{"name":"from bob"}`)
	clustertest.Eventually(t, "all have both", func() error {
		for _, d := range []*clustertest.Device{alice, bob, carol} {
			if n := len(d.List(t, "tag")); n != 2 {
				return fmt.Errorf("%s has %d tags", d.Name, n)
			}
		}
		return nil
	})
	clustertest.WaitEqual(t, alice, bob, carol)
}

// TestNATS_Paths wants a path in a plugin's config block to start from the folder of config.hcl, and the setting whose file
// is wrong to be named.
func TestNATS_Paths(t *testing.T) {
	alice := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	throughNATS(t, alice, &natsServer{address: "127.0.0.1:1"}, false)
	config, err := os.ReadFile(alice.Config())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(config), "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "    user "):
			lines[i] = `    creds = "./here.creds"`
		case strings.HasPrefix(line, "    password "):
			lines[i] = ""
		}
	}
	if err := os.WriteFile(alice.Config(), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(alice.Dir, "here.creds"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	clustertest.Eventually(t, "status names the setting", func() error {
		return statusSays(alice, "quarantined", "creds: ./here.creds does not hold a user's token and key")
	})
}

// TestNATS_WrongPassword has a reload give a device that is connected a password that the server does not take: the reload fails
// and says why, the old process goes on, and so does the device.
func TestNATS_WrongPassword(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	server := newNATSServer(t)
	server.start(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	throughNATS(t, alice, server, false)
	throughNATS(t, bob, server, false)
	alice.Start(t)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	text, err := os.ReadFile(bob.Config())
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(bob.Dir, "pw")
	password := func(is string) {
		t.Helper()
		if err := os.WriteFile(secret, []byte(is), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	password("wrong")
	changed := strings.Replace(string(text), `env("NATS_PASSWORD", "secret of bob")`, `secretfile("pw")`, 1)
	if err := os.WriteFile(bob.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := fails(t, bob, "reload", "--soak", "0s")
	if !strings.Contains(refused, "takes no connections at bob after 5s") || !strings.Contains(refused, "do not let this device in") {
		t.Errorf("reload with a wrong password:\n%s", refused)
	}
	if text := bob.Run(t, "status"); strings.Contains(text, "deaf") || strings.Contains(text, "switching") {
		t.Errorf("status after it:\n%s", text)
	}
	if text := bob.Run(t, "events"); !strings.Contains(text, "refused") {
		t.Errorf("events after it:\n%s", text)
	}
	alice.Run(t, "put", "tag", `{"name":"meanwhile"}`)
	clustertest.WaitEqual(t, alice, bob)
	password("secret of bob")
	if out := bob.Run(t, "reload", "--soak", "0s"); !strings.Contains(out, "what it said before") {
		t.Errorf("reload with the password in use:\n%s", out)
	}
	bob.Run(t, "put", "tag", `{"name":"after"}`)
	clustertest.WaitEqual(t, alice, bob)
}

// statusSays returns an error unless what status says of a device's transports holds every one of words.
func statusSays(d *clustertest.Device, words ...string) error {
	text, err := d.TryRun("status", "--json")
	if err != nil {
		return err
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			return fmt.Errorf("no %q in status:\n%s", word, text)
		}
	}
	return nil
}

// TestNATS_Deaf swaps to a NATS transport whose user may not listen: it is refused at once, with that reason, whatever is forced.
// One that a reload adds with a wrong password is said not to work, by the reload.
func TestNATS_Deaf(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	server := newNATSServer(t)
	text, err := os.ReadFile(server.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(server.config, []byte(strings.Replace(string(text), `subscribe: ["starling.home.dial.alice", `, `subscribe: [`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	server.start(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	throughNATS(t, alice, server, true)
	alice.Start(t)
	clustertest.Eventually(t, "alice is deaf", func() error { return statusSays(alice, `"deaf"`) })
	for _, args := range [][]string{{"lan", "fleet"}, {"lan", "fleet", "--force"}, {"tcp", "nats"}} {
		refused := fails(t, alice, append([]string{"transport", "swap"}, args...)...)
		if !strings.Contains(refused, "nothing has changed, since transport fleet is deaf") || !strings.Contains(refused, "give its user that permission") {
			t.Errorf("%v: %s", args, refused)
		}
	}

	bob := clustertest.NewDevice(t, path, "bob", "--library", "other")
	bob.Start(t)
	throughNATS(t, bob, server, true)
	config, err := os.ReadFile(bob.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bob.Config(), []byte(strings.Replace(string(config), "secret of bob", "secret of nobody", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	said := fails(t, bob, "reload")
	if !strings.Contains(said, "what was added does not do its work yet") || !strings.Contains(said, "fleet is unhealthy") || !strings.Contains(said, "do not let this device in") {
		t.Errorf("added with a wrong password: %s", said)
	}
	if err := os.WriteFile(bob.Config(), config, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := bob.Run(t, "reload", "--soak", "0s"); !strings.Contains(out, "done") {
		t.Errorf("the right one: %s", out)
	}
}
