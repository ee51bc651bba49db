package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// fleet is the NATS server through which the devices meet.
type fleet struct {
	address  string // host:port
	user     *url.Userinfo
	subject  string   // of this run alone
	own      *process // nil: the server was there
	relation string   // between the demo and the server, for people
}

// newFleet finds the server at a URL or, without one, starts one that ends with the demo.
func newFleet(ctx context.Context, o Options, dir string) (*fleet, error) {
	f := &fleet{subject: "starling-demo-" + strings.ToLower(rand.Text()[:8])}
	if o.NATS != "" {
		u, err := url.Parse(o.NATS)
		if err != nil || u.Scheme != "nats" || u.Hostname() == "" {
			return nil, fmt.Errorf("--nats: the demo passes a server's bytes on as they are, so it wants a URL such as nats://127.0.0.1:4222")
		}
		f.address, f.user, f.relation = u.Host, u.User, "at "+u.Host
		if u.Port() == "" {
			f.address = net.JoinHostPort(u.Hostname(), "4222")
		}
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", f.address)
		if err != nil {
			return nil, fmt.Errorf("--nats: no server answers at %s: %w", f.address, err)
		}
		return f, c.Close()
	}
	path, err := natsServer(o.Program)
	if err != nil {
		return nil, err
	}
	if f.address, err = freeAddress(); err != nil {
		return nil, err
	}
	f.relation = "started for this"
	host, port, err := net.SplitHostPort(f.address)
	if err != nil {
		return nil, err
	}
	f.own, err = startProcess(exec.Command(path, "-a", host, "-p", port), filepath.Join(dir, "nats-server.log")) //nolint:gosec // found on PATH
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return f, f.own.until(ctx, "nats-server", func() (bool, error) {
		c, err := net.Dial("tcp", f.address)
		if err != nil {
			return false, nil //nolint:nilerr // not there yet
		}
		return true, c.Close()
	})
}

// natsServer returns the path of the server's binary: the one on PATH, or beside this program.
func natsServer(program string) (string, error) {
	path, err := exec.LookPath("nats-server")
	if err == nil {
		return path, nil
	}
	if !errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("nats-server: %w", err)
	}
	name := "nats-server"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	beside := filepath.Join(filepath.Dir(program), name)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	return "", errors.New("no nats-server is on PATH; install one (Debian: apt install nats-server; others: https://nats.io), " +
		"name one that runs with --nats nats://HOST:4222, or in a checkout run: task demo:nats")
}

// join has a device's configuration reach the others through the server at address alone, which the link can cut.
func (f *fleet) join(body *hclwrite.Body, device, address string) {
	for _, block := range body.Blocks() {
		if block.Type() != "transport" {
			continue
		}
		block.SetLabels([]string{"nats", "fleet"})
		inner := block.Body()
		inner.SetAttributeValue("listen", cty.StringVal(device))
		config := inner.AppendNewBlock("config", nil).Body()
		config.SetAttributeValue("servers", cty.ListVal([]cty.Value{cty.StringVal("nats://" + address)}))
		config.SetAttributeValue("subject", cty.StringVal(f.subject))
		config.SetAttributeValue("discover", cty.False) // the other servers of a cluster are not behind the link
		if f.user == nil {
			continue
		}
		if password, ok := f.user.Password(); ok {
			config.SetAttributeValue("user", cty.StringVal(f.user.Username()))
			config.SetAttributeValue("password", cty.StringVal(password))
		} else {
			config.SetAttributeValue("token", cty.StringVal(f.user.Username()))
		}
	}
}

func (f *fleet) stop() {
	if f.own != nil {
		f.own.stop()
	}
}
