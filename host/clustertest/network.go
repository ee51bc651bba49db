package clustertest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Network stands between devices: peers reach each of its devices through a relay, which knows who dials and passes on
// only what Connect allows. Who dials is found in /proc, so a Network needs Linux. At first nobody reaches anybody.
type Network struct {
	wait   sync.WaitGroup
	relays []net.Listener

	mu      sync.Mutex
	devices []*Device
	wires   map[wire]bool     // those that carry
	conns   map[net.Conn]wire // both ends of all that is carried
}

// wire is the names of two devices, in order.
type wire [2]string

func wireOf(a, b string) wire { return wire{min(a, b), max(a, b)} }

// NewNetwork makes a network that ends with tb. Make it before its devices, so that it outlives them.
func NewNetwork(tb testing.TB) *Network {
	tb.Helper()
	if runtime.GOOS != "linux" {
		tb.Skip("who dials is found in /proc, which only Linux has")
	}
	n := &Network{wires: map[wire]bool{}, conns: map[net.Conn]wire{}}
	tb.Cleanup(n.close)
	return n
}

// Add has peers reach d, which must not run yet, through the network. It is for one goroutine.
func (n *Network) Add(tb testing.TB, d *Device) {
	tb.Helper()
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n.relays = append(n.relays, relay)
	config, err := os.ReadFile(d.Config())
	if err != nil {
		tb.Fatal(err)
	}
	listen := fmt.Sprintf("listen = %q\n", d.Listen)
	changed := strings.Replace(string(config), listen, listen+fmt.Sprintf("  advertise = [%q]\n", relay.Addr()), 1)
	if changed == string(config) {
		tb.Fatalf("%s has no line %q", d.Config(), listen)
	}
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		tb.Fatal(err)
	}
	n.mu.Lock()
	n.devices = append(n.devices, d)
	n.mu.Unlock()
	n.wait.Go(func() {
		for {
			in, err := relay.Accept()
			if err != nil {
				return
			}
			n.wait.Go(func() { n.carry(in, d) })
		}
	})
}

// Connect lets two devices reach one another iff some group has both. It ends the connections that this forbids.
func (n *Network) Connect(groups ...[]*Device) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.wires)
	for _, group := range groups {
		for i, a := range group {
			for _, b := range group[:i] {
				n.wires[wireOf(a.Name, b.Name)] = true
			}
		}
	}
	for c, w := range n.conns {
		if !n.wires[w] {
			c.Close()
		}
	}
}

func (n *Network) carry(in net.Conn, to *Device) {
	defer in.Close()
	w := wireOf(n.dialler(in), to.Name)
	if !n.keep(in, w) {
		return
	}
	defer n.forget(in)
	out, err := net.Dial("tcp", to.Listen)
	if err != nil {
		return
	}
	defer out.Close()
	if !n.keep(out, w) {
		return
	}
	defer n.forget(out)
	var back sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // ends when either side does
		to.Close()
		from.Close()
	}
	back.Go(func() { pass(in, out) })
	pass(out, in)
	back.Wait()
}

// keep remembers a connection so that Connect can end it; false if w does not carry.
func (n *Network) keep(c net.Conn, w wire) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wires[w] {
		n.conns[c] = w
	}
	return n.wires[w]
}

func (n *Network) forget(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

func (n *Network) close() {
	for _, r := range n.relays {
		r.Close()
	}
	n.Connect()
	n.wait.Wait()
}

// dialler returns the name of the device one of whose processes has the other end of c; "" if none has. The system's table
// of connections is no snapshot, so that a look can miss one that is there: it looks again for a while.
func (n *Network) dialler(c net.Conn) string {
	for range 100 {
		if name := n.lookUp(c); name != "" {
			return name
		}
		<-time.After(10 * time.Millisecond)
	}
	return ""
}

func (n *Network) lookUp(c net.Conn) string {
	inode := inodeOf(c.RemoteAddr(), c.LocalAddr())
	if inode == "" {
		return ""
	}
	n.mu.Lock()
	devices := n.devices[:len(n.devices):len(n.devices)]
	n.mu.Unlock()
	for _, d := range devices {
		for _, pid := range d.Processes() {
			descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			for _, fd := range descriptors {
				if target, err := os.Readlink(fd); err == nil && target == "socket:["+inode+"]" {
					return d.Name
				}
			}
		}
	}
	return ""
}

// inodeOf returns the inode of the TCP socket on this machine that is connected from local to remote; "" if there is none. One
// that was connected from there to elsewhere, and waits for its end, has none.
func inodeOf(local, remote net.Addr) string {
	from, to := inTable(local), inTable(remote)
	if from == "" || to == "" {
		return ""
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 9 && fields[1] == from && fields[2] == to {
			return fields[9]
		}
	}
	return ""
}

// inTable is how the system's table of connections writes an address; "" if it is not one of IPv4.
func inTable(a net.Addr) string {
	address, err := netip.ParseAddrPort(a.String())
	if err != nil || !address.Addr().Is4() {
		return ""
	}
	ip := address.Addr().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), address.Port())
}
