package demo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// device is one device of the demo: a folder, a process, and a client of its control API.
type device struct {
	name, dir, program string
	listen             string
	*control.Client

	process *process
}

func (d *device) config() string   { return filepath.Join(d.dir, "config.hcl") }
func (d *device) data() string     { return filepath.Join(d.dir, "data") }
func (d *device) database() string { return filepath.Join(d.data(), "starling.db") }
func (d *device) log() string      { return filepath.Join(d.dir, "host.log") }

// begin makes the device, reachable through l, and starts its host. f is nil where devices dial one another.
func begin(ctx context.Context, program, dir, name string, l *link, f *fleet, extra ...string) (*device, error) {
	d, err := create(ctx, program, dir, name, extra...)
	if err != nil {
		return nil, err
	}
	target := d.listen
	if f != nil {
		target = f.address
	}
	relayed, err := l.relay(target)
	if err != nil {
		return nil, err
	}
	if err := d.reach(relayed, f); err != nil {
		return nil, err
	}
	return d, d.start(ctx)
}

// create makes the device, which will listen on a free address.
func create(ctx context.Context, program, dir, name string, extra ...string) (*device, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	d := &device{name: name, dir: filepath.Join(dir, name), program: program, listen: listen}
	args := append([]string{"init", d.dir, "--name", name, "--listen", listen}, extra...)
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil { //nolint:gosec // this program
		return nil, fmt.Errorf("init %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return d, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// reach has the device and its peers reach one another through address, which is the link's, so that the link can be cut.
func (d *device) reach(address string, f *fleet) error {
	return d.edit(func(body *hclwrite.Body) {
		if f != nil {
			f.join(body, d.name, address)
			return
		}
		for _, block := range body.Blocks() {
			if block.Type() == "transport" {
				block.Body().SetAttributeValue("advertise", cty.ListVal([]cty.Value{cty.StringVal(address)}))
			}
		}
	})
}

// edit changes the device's configuration.
func (d *device) edit(change func(*hclwrite.Body)) error {
	text, err := os.ReadFile(d.config())
	if err != nil {
		return err
	}
	file, diags := hclwrite.ParseConfig(text, d.config(), hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	change(file.Body())
	return os.WriteFile(d.config(), file.Bytes(), 0o600)
}

// start starts the host and waits until it answers.
func (d *device) start(ctx context.Context) error {
	var err error
	d.process, err = startProcess(exec.Command(d.program, "run", "--config", d.config()), d.log()) //nolint:gosec // this program
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	return d.until(ctx, func() (bool, error) {
		client, err := control.Dial(ctx, d.data())
		if err != nil {
			return false, nil //nolint:nilerr // not there yet
		}
		if _, err := client.Status(ctx); err != nil {
			client.Close()
			return false, nil //nolint:nilerr // not ready yet
		}
		d.Client = client
		return true, nil
	})
}

// until asks again and again, until check says true, fails, the host ends, or nothing came of it for two minutes.
func (d *device) until(ctx context.Context, check func() (bool, error)) error {
	return d.process.until(ctx, "the host of "+d.name, check)
}

// stop ends the host.
func (d *device) stop() {
	if d.Client != nil {
		d.Close()
	}
	if d.process != nil {
		d.process.stop()
	}
}

// rows returns how many visible records of model the device has.
func (d *device) rows(ctx context.Context, model sdk.ModelName) (int64, error) {
	status, err := d.Status(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range status.Models {
		if m.Model == model {
			return m.Rows, nil
		}
	}
	return 0, nil
}

// digest returns one text for the device's whole merged state.
func (d *device) digest(ctx context.Context) (string, error) {
	digests, err := d.Digests(ctx)
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, m := range digests {
		fmt.Fprintf(&all, "%s %d %s\n", m.Model, m.Rows, hex.EncodeToString(m.Digest))
	}
	return all.String(), nil
}

// errRefused is for a record that is not as its model wants it: the hosts' logs have nothing to say about it.
var errRefused = errors.New("refused")

// put writes one record and returns its id.
func (d *device) put(ctx context.Context, model sdk.ModelName, id sdk.RecordID, object string) (sdk.RecordID, error) {
	result, err := d.Put(ctx, model, []control.Put{{ID: id, JSON: []byte(object)}}, true)
	if err != nil {
		return id, err
	}
	if len(result.Refused) > 0 {
		return id, fmt.Errorf("%s %w %s %s: %s", d.name, errRefused, model, object, result.Refused[0].Message)
	}
	return result.IDs[0], nil
}
